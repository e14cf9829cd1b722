"""One prompt of a task as token ids for the model, and the recorded turn of its answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from harness.backends.backend import Generated
from harness.errors import UserError
from harness.models.loading import Model
from harness.models.prompts import encode, pictures, placed, request_text
from harness.models.stop_rule import StopRule
from harness.plugins.strategy import RequestText
from harness.plugins.task import Example, Message, Task
from harness.store.config import RunConfig
from harness.store.schema import Turn


class RecordedTurn(Protocol):
    """What a record keeps of a prompt, and the answer to it."""

    prompt_tokens: int
    text: str


@dataclass(frozen=True)
class PreparedPrompt:
    """A prompt as token ids, without `cut` tokens of its start, which did not fit into the context.

    The answer has at most `max_tokens` tokens, which are `limited` if the context allows fewer than configured. `rule`
    ends the answer, and `text` is the request as text. `given` are the tokens of an answer that is not to be chosen.
    If the model has an encoder, it reads `source`, which has lost the `cut` tokens.
    """

    prompt: tuple[int, ...]
    cut: int
    max_tokens: int
    limited: bool
    rule: StopRule
    text: RequestText
    given: tuple[int, ...] = ()
    source: tuple[int, ...] = ()

    def turn(self, answer: Generated) -> Turn:
        """Return the turn to record for an answer."""
        raw = self.rule.text(answer.tokens) if answer.text is None else answer.text
        text = self.rule.answer(answer.tokens) if answer.text is None else self.rule.before_stop(answer.text)
        stop = "context" if answer.stop == "length" and self.limited else answer.stop
        return Turn(prompt=self.text.prompt, prompt_tokens=len(self.source or self.prompt), prompt_cut=self.cut,
                    prompt_shared=answer.shared, raw=raw, text=text, tokens=answer.tokens,
                    stop=stop, steps=answer.steps, trees=list(answer.trees),
                    ranks=list(answer.ranks), computed=answer.computed, surprisal=list(answer.surprisal),
                    encoded=answer.encoded, filled=list(answer.filled))


def prepare(config: RunConfig, target: Model, longest: int, task: Task, example: Example,
            answers: Sequence[str]) -> PreparedPrompt:
    """Prepare the next prompt of `example` after `answers` to the previous turns.

    Prompt and answer have at most `longest` tokens. Where they do not fit, the prompt loses worked examples; then the
    answer gets shorter. Raises `UserError` for a prompt that is too long without them, unless its start may be cut.
    """
    limit, whole, images = config.max_new_tokens or task.max_new_tokens, 0, pictures(target, example)
    beside = 0 if "source" in target.engine.offers else limit  # an encoder reads the prompt without the answer
    for rendered in _shorter(task, example, answers):
        prompt = encode(target, rendered, images)
        whole = whole or len(prompt)
        if len(prompt) + beside <= longest:
            break
    if len(prompt) + min(beside, 1) > longest:  # no token of the answer would fit
        if not config.truncate_prompts:
            raise UserError(f"the prompt has {len(prompt)} tokens but the context of the model is {longest}; "
                            "`run --truncate-prompts` cuts the start of long prompts")
        prompt = end_of(target, prompt, max(longest - beside, (longest + 1) // 2))
    cut, (before, source) = whole - len(prompt), placed(target, prompt)
    room = longest - len(before)
    rule = StopRule(target.tokenizer, () if source else before, target.eos, task.stop)
    text = request_text(target, rendered, rule, partial(task.answer, example),
                        task.wanted(example), task.banned(example), task.schema(example), task.parts(example, answers),
                        images)
    given = tuple(text.tokens(example.reference))[:limit] if task.given else ()
    limit = len(given) or limit
    return PreparedPrompt(before, cut, min(limit, room), room < limit, rule, text, given, source)


def recorded_ids(target: Model, task: Task, example: Example, turns: Sequence[RecordedTurn], number: int
                 ) -> list[int]:
    """Return the token ids of the prompt of the recorded turn `number` as `prepare` made it."""
    count, images = turns[number].prompt_tokens, pictures(target, example)
    for rendered in _shorter(task, example, [turn.text for turn in turns[:number]]):
        prompt = encode(target, rendered, images)
        if len(prompt) == count:
            break
    return end_of(target, prompt, count)


def end_of(target: Model, prompt: Sequence[int], count: int) -> list[int]:
    """Return the last tokens of a prompt, at most `count`, after its BOS token if it has one."""
    if len(prompt) <= count:
        return list(prompt)
    start = [prompt[0]] if count > 1 and prompt[0] == target.tokenizer.bos_token_id else []
    return [*start, *prompt[len(prompt) - count + len(start):]]


def _shorter(task: Task, example: Example, answers: Sequence[str]) -> Iterator[str | list[Message]]:
    """Yield the prompt with all its worked examples, then with one fewer at its start each time."""
    whole = task.prompt(example, list(answers))
    yield whole
    if isinstance(whole, str):
        for shot in task.exemplars(example):
            whole = whole.removeprefix(shot)
            yield whole
