"""Cells decoded by a backend of its own: from the questions of a task to turns like those of the reference."""

from collections.abc import Iterator, Mapping, Sequence

from harness.backends.native import Answer, Ask, Native
from harness.engine.random_stream import PhiloxStream
from harness.errors import UserError
from harness.models.prompts import warm_up
from harness.models.stop_rule import StopRule
from harness.plugins.strategy import Strategy
from harness.plugins.task import Example
from harness.run.plan import Cell, Plan
from harness.run.prepared_prompt import PreparedPrompt, prepare
from harness.run.trace import Trace
from harness.store.schema import Steps, Turn
from harness.store.steps import fitted


def answers(plan: Plan, native: Native, cell: Cell,
            examples: Sequence[Example]) -> list[tuple[list[Turn] | Exception, float]]:
    """Every turn of each example, or what went wrong with it, and when the first was asked for (`Answer.sent`).

    First turns are asked together, then second ones.
    """
    done, sent = list[list[Turn] | Exception]([] for _ in examples), [0.0] * len(examples)
    for number in range(max(len(example.turns) for example in examples)):
        asked = dict[int, PreparedPrompt]()
        for place, (example, before) in enumerate(zip(examples, done, strict=True)):
            if isinstance(before, list) and number < len(example.turns):
                try:
                    asked[place] = prepare(plan.config, plan.target, native.max_len, cell.task, example,
                                            [turn.text for turn in before])
                except Exception as error:  # one bad sample must not end a run: it is recorded
                    done[place] = error
        for place, answer in _decoded(plan, native, cell, examples, number, asked):
            before = done[place]
            assert isinstance(before, list)
            if isinstance(answer, Exception):
                done[place] = answer
                continue
            done[place] = [*before, turn(asked[place], answer)]
            sent[place] = sent[place] if before else answer.sent
    return list(zip(done, sent, strict=True))


def _decoded(plan: Plan, native: Native, cell: Cell, examples: Sequence[Example], number: int,
             asked: Mapping[int, PreparedPrompt]) -> Iterator[tuple[int, Answer | Exception]]:
    """Each place with its answer; examples whose task sets another temperature are another strategy's."""
    of = {place: cell.at(examples[place]).strategy for place in asked}
    for strategy in dict.fromkeys(of.values()):
        places = [place for place in asked if of[place] == strategy]
        asks = [_ask(plan, cell, examples[place], number, asked[place]) for place in places]
        size = 1 if plan.config.one_at_a_time else len(asks)  # the backend does not know of this plan's
        for start in range(0, len(asks), size):
            yield from zip(places[start:start + size], native.decode(strategy, asks[start:start + size]), strict=True)


def warm(plan: Plan, native: Native) -> None:
    """Let every strategy write a few tokens after a text that is no example, so that first calls are not timed."""
    request, _ = warm_up(plan.target)
    for strategy in plan.strategies:
        native.decode(strategy, [Ask(request.prompt, request.max_new_tokens, 0)] * min(2, plan.config.concurrency))


def drawn(native: Native, strategy: Strategy, prompt: tuple[int, ...], rule: StopRule, length: int,
          seeds: Sequence[int]) -> list[Trace | Exception]:
    """A text of `length` tokens after `prompt` for each seed, as one cell; nothing but `rule` ends it before."""
    try:
        given = native.decode(strategy, [Ask(prompt, length, number) for number in seeds])
    except UserError as error:  # the backend is gone, which is a finding, too
        return [error] * len(seeds)
    return [each if isinstance(each, Exception) else trace(rule, length, each) for each in given]


def turn(asked: PreparedPrompt, answer: Answer) -> Turn:
    """The turn that an answer makes, ended where the reference would have ended it."""
    if answer.text is not None:
        return asked.turn(Trace([], answer.stop, answer.steps), answer.shared, answer.text)
    return asked.turn(trace(asked.rule, asked.most, answer), answer.shared)


def trace(rule: StopRule, most: int, answer: Answer) -> Trace:
    """The tokens of an answer up to EOS, a stop string or the limit, and its steps up to there."""
    cut, tokens = rule.cut(answer.tokens, len(answer.tokens)), answer.tokens
    if cut and cut.kept <= most:
        return Trace(tokens[:cut.kept], cut.reason, fit(answer.steps, cut.kept))
    if len(tokens) >= most:
        return Trace(tokens[:most], "length", fit(answer.steps, most))
    return Trace(tokens, "ended" if answer.stop in ("length", "unknown") else answer.stop, answer.steps)


def fit(steps: Steps, kept: int) -> Steps:
    """The steps of the first `kept` tokens: the last one is cut, and none follows it."""
    tokens = fitted(steps.tokens, kept)
    count = next((i for i, left in enumerate(tokens) if sum(tokens[:i]) >= kept), len(tokens)) if kept else 0
    columns = {name: values[:count] for name, values in steps if values}
    return Steps(**{**columns, "tokens": tokens[:count]})


def _ask(plan: Plan, cell: Cell, example: Example, number: int, asked: PreparedPrompt) -> Ask:
    own = PhiloxStream(plan.config.seed, cell.task.spec(), example.id, cell.sample, cell.repeat, number)
    return Ask(asked.prompt, asked.most, own.number, plan.target.eos, cell.task.stop, cell.sample)
