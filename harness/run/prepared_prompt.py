"""One prompt of a task as a model is asked it, and the turn that its answer makes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from harness.errors import UserError
from harness.models.loading import Model
from harness.models.prompts import encode, words
from harness.models.stop_rule import StopRule
from harness.plugins.strategy import RequestText
from harness.plugins.task import Example, Task
from harness.run.trace import Trace
from harness.store.config import RunConfig
from harness.store.schema import Turn


@dataclass(frozen=True)
class PreparedPrompt:
    """`prompt` holds the token ids that are read, without the first `cut` that did not fit.

    The answer may have `most` tokens; `cramped` says that it is the model's length that allows no more. `rule` ends it.
    """

    prompt: tuple[int, ...]
    cut: int
    most: int
    cramped: bool
    rule: StopRule
    words: RequestText

    def turn(self, done: Trace, shared: int = 0, text: str | None = None) -> Turn:
        """The turn that an answer makes; `text` is all that is known of one without token ids."""
        raw = self.rule.text(done.tokens) if text is None else text
        stop = "context" if done.stop == "length" and self.cramped else done.stop
        return Turn(prompt=self.words.prompt, prompt_tokens=len(self.prompt), prompt_cut=self.cut,
                    prompt_shared=shared, raw=raw, text=self.rule.before_stop(raw), tokens=done.tokens, stop=stop,
                    steps=done.steps)


def prepare(config: RunConfig, target: Model, longest: int, task: Task, example: Example,
             answers: Sequence[str]) -> PreparedPrompt:
    """What `task` asks after `answers` to the turns before; prompt and answer together have at most `longest` tokens.

    Raises `UserError` for a prompt that is too long and may not be cut.
    """
    asked = task.prompt(example, list(answers))
    whole = encode(target, asked)
    most, prompt = config.max_new_tokens or task.max_new_tokens, whole
    if len(whole) >= longest:
        if not (config.truncate_prompts or task.may_cut):
            raise UserError(f"the prompt has {len(whole)} tokens and the model reads at most {longest}; "
                            "--truncate-prompts drops what is too much at its start")
        prompt = whole[-max(1, longest - most):]
    room = longest - len(prompt)
    rule = StopRule(target.tokenizer, prompt, target.eos, task.stop)
    text = words(target, asked, rule, partial(task.answer, example), task.wanted(example), task.banned(example))
    return PreparedPrompt(tuple(prompt), len(whole) - len(prompt), min(most, room), room < most, rule, text)
