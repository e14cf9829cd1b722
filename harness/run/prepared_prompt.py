"""One prompt of a task as token ids for the model, and the recorded turn of its answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from harness.backends.backend import Generated
from harness.errors import UserError
from harness.models.loading import Model
from harness.models.prompts import encode, request_text
from harness.models.stop_rule import StopRule
from harness.plugins.strategy import RequestText
from harness.plugins.task import Example, Task
from harness.store.config import RunConfig
from harness.store.schema import Turn


@dataclass(frozen=True)
class PreparedPrompt:
    """A prompt as token ids, without its first `cut` tokens, which did not fit into the context.

    The answer has at most `max_tokens` tokens, which are `limited` if the context allows fewer than configured. `rule`
    ends the answer, and `text` is the request as text.
    """

    prompt: tuple[int, ...]
    cut: int
    max_tokens: int
    limited: bool
    rule: StopRule
    text: RequestText

    def turn(self, answer: Generated) -> Turn:
        """Return the turn to record for an answer."""
        raw = self.rule.text(answer.tokens) if answer.text is None else answer.text
        stop = "context" if answer.stop == "length" and self.limited else answer.stop
        return Turn(prompt=self.text.prompt, prompt_tokens=len(self.prompt), prompt_cut=self.cut,
                    prompt_shared=answer.shared, raw=raw, text=self.rule.before_stop(raw), tokens=answer.tokens,
                    stop=stop, steps=answer.steps)


def prepare(config: RunConfig, target: Model, longest: int, task: Task, example: Example,
            answers: Sequence[str]) -> PreparedPrompt:
    """Prepare the next prompt of `example` after `answers` to the previous turns.

    Prompt and answer have at most `longest` tokens. Raises `UserError` for a prompt that is too long and must not be
    cut.
    """
    rendered = task.prompt(example, list(answers))
    whole = encode(target, rendered)
    limit, prompt = config.max_new_tokens or task.max_new_tokens, whole
    if len(whole) >= longest:
        if not (config.truncate_prompts or task.may_cut):
            raise UserError(f"the prompt has {len(whole)} tokens but the context of the model is {longest}; "
                            "--truncate-prompts cuts the start of long prompts")
        prompt = whole[-max(1, longest - limit):]
    room = longest - len(prompt)
    rule = StopRule(target.tokenizer, prompt, target.eos, task.stop)
    text = request_text(target, rendered, rule, partial(task.answer, example),
                        task.wanted(example), task.banned(example))
    return PreparedPrompt(tuple(prompt), len(whole) - len(prompt), min(limit, room), room < limit, rule, text)
