"""One prompt of a task as the model gets it, and the turn that its answer makes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from harness.backends.backend import Generated
from harness.errors import UserError
from harness.models.loading import Model
from harness.models.prompts import encode, words
from harness.models.stop_rule import StopRule
from harness.plugins.strategy import RequestText
from harness.plugins.task import Example, Task
from harness.store.config import RunConfig
from harness.store.schema import Turn


@dataclass(frozen=True)
class PreparedPrompt:
    """`prompt` holds the token ids that the model reads, without the first `cut` that did not fit.

    The answer may have `max_tokens` tokens; `limited` says that the model's context allows no more. `rule` ends it.
    """

    prompt: tuple[int, ...]
    cut: int
    max_tokens: int
    limited: bool
    rule: StopRule
    words: RequestText

    def turn(self, answer: Generated) -> Turn:
        """The turn that an answer makes."""
        raw = self.rule.text(answer.tokens) if answer.text is None else answer.text
        stop = "context" if answer.stop == "length" and self.limited else answer.stop
        return Turn(prompt=self.words.prompt, prompt_tokens=len(self.prompt), prompt_cut=self.cut,
                    prompt_shared=answer.shared, raw=raw, text=self.rule.before_stop(raw), tokens=answer.tokens,
                    stop=stop, steps=answer.steps)


def prepare(config: RunConfig, target: Model, longest: int, task: Task, example: Example,
            answers: Sequence[str]) -> PreparedPrompt:
    """The prompt of `task` after `answers` to the turns before; with its answer it has at most `longest` tokens.

    Raises `UserError` for a prompt that is too long and may not be cut.
    """
    rendered = task.prompt(example, list(answers))
    whole = encode(target, rendered)
    limit, prompt = config.max_new_tokens or task.max_new_tokens, whole
    if len(whole) >= longest:
        if not (config.truncate_prompts or task.may_cut):
            raise UserError(f"the prompt has {len(whole)} tokens and the model reads at most {longest}; "
                            "--truncate-prompts drops what is too much at its start")
        prompt = whole[-max(1, longest - limit):]
    room = longest - len(prompt)
    rule = StopRule(target.tokenizer, prompt, target.eos, task.stop)
    text = words(target, rendered, rule, partial(task.answer, example), task.wanted(example), task.banned(example))
    return PreparedPrompt(tuple(prompt), len(whole) - len(prompt), min(limit, room), room < limit, rule, text)
