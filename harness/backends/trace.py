"""Runs a strategy on one prompt until its stop rule ends it, and records counts and time of every step."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from itertools import pairwise

from harness.decoding.given_text import GivenText
from harness.engine.compute import difference
from harness.engine.images import read_for
from harness.engine.session import Session
from harness.models.stop_rule import Cut, StopRule
from harness.plugins.strategy import Request, Strategy
from harness.store.computed import Computed
from harness.store.schema import Steps, StepTree, Stop

Clock = Callable[[], float]
NODES = 4000  # of the trees of one answer that are kept at most
NAN = "the model's logits are NaN; check its weights, or use another --dtype"


@dataclass
class Trace:
    """The token ids of an answer, the reason of its end, its steps, and what they computed.

    If wanted, also the trees of the steps and the ranks of the tokens; of a given answer, the surprisal of its tokens.
    Of a canvas, `filled` has the number of the forward that filled the place of each token.
    """

    tokens: list[int] = field(default_factory=list)
    stop: Stop = "ended"
    steps: Steps = field(default_factory=Steps)
    computed: Computed | None = None
    trees: list[StepTree] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    surprisal: list[float] = field(default_factory=list)
    filled: list[int] = field(default_factory=list)
    first: dict[str, float] | None = None  # the sums of what had been computed after the first step


def trace(strategy: Strategy, session: Session, request: Request, rule: StopRule, clock: Clock, full: bool = False,
          given: Sequence[int] = ()) -> Trace:
    """Decode until EOS, a stop string, `request.max_new_tokens` or the strategy's end, and cut the last step there.

    If `full`, keep the tree of each step, `NODES` nodes at most, and the rank of each token that was sampled in the
    loop of `draft_and_verify`; those of other strategies are unknown. If the answer is `given`, the strategy has to
    choose its tokens, and what is recorded is how likely they were. Raises `FloatingPointError` if the model's logits
    are NaN: argmax would choose tokens from them all the same.
    """
    session.kept_trees, session.kept_ranks = ([], []) if full else (None, None)
    session.work.filled.clear()
    before, forced = session.work.compute.numbers(), session.engine.forced.warp(request.start, request.max_new_tokens)
    session.begin(request.source)
    try:
        text = GivenText(request.start, given)
        warp = text.warp if given else forced
        with read_for(request.prompt, session.work), session.with_logit_warp(warp) if warp else nullcontext():
            result = _trace(strategy, session, request, rule, clock)
    except Exception as error:
        if session.has_nan:
            raise FloatingPointError(NAN) from error
        raise
    if session.has_nan:
        raise FloatingPointError(NAN)
    result.ranks = _ranks(session, result.tokens)
    result.surprisal = text.surprisal(result.tokens) if given else []
    result.filled = session.work.filled[:len(result.tokens)]
    result.computed = _computed(before, result.first or before, session.work.compute.numbers())
    return result


def _computed(*numbers: dict[str, float]) -> Computed:
    """Return what the first step and all later ones computed, from the sums before, between and after them."""
    first, later = (difference(after, before) for before, after in pairwise(numbers))
    return Computed(**{name: (first[name], later[name]) for name in first})


def _trace(strategy: Strategy, session: Session, request: Request, rule: StopRule, clock: Clock) -> Trace:
    blocks = iter(strategy.generate(session, request))
    # A strategy that is broken off ends here; later, when its memory is freed, Python would ignore Ctrl-C.
    with closing(blocks) if isinstance(blocks, Generator) else nullcontext():
        return _followed(blocks, session, request, rule, clock)


def _followed(blocks: Iterator[Sequence[int]], session: Session, request: Request, rule: StopRule,
              clock: Clock) -> Trace:
    result = Trace()
    counts = _counts(session)
    while True:
        start = clock()
        block = next(blocks, None)
        seconds = clock() - start
        if session.kept_trees is not None:
            _take_trees(session, result, block or [])
        if block is None:
            return result
        result.tokens += block
        cut = rule.cut(result.tokens, len(block))
        if (cut.kept if cut else len(result.tokens)) > request.max_new_tokens:
            cut = None
        if cut is None and len(result.tokens) >= request.max_new_tokens:
            cut = Cut(request.max_new_tokens, "length")
        over = len(result.tokens) - cut.kept if cut else 0
        counts = _note(result.steps, len(block) - over, seconds, counts, _counts(session))
        result.first = result.first or session.work.compute.numbers()
        if cut:
            del result.tokens[cut.kept:]
            result.stop = cut.reason
            return result


def _take_trees(session: Session, result: Trace, block: Sequence[int]) -> None:
    """Move the trees of the last step to the trace, as far as they may be kept; a search has one for the whole answer.
    """
    forest = session.forest
    found = session.kept_trees or ([(forest, forest.spelling(block))] if len(forest) and block else [])
    for tree, path in found:
        if sum(len(known.tokens) for known in result.trees) + len(tree) <= NODES:
            result.trees.append(StepTree(step=len(result.steps.tokens), tokens=list(tree.tokens),
                                         parents=list(tree.parents), path=path))
    session.kept_trees = []


def _ranks(session: Session, tokens: Sequence[int]) -> list[int]:
    """Return the ranks of the tokens; empty unless the session kept them for exactly these."""
    kept = (session.kept_ranks or [])[:len(tokens)]
    return [rank for _, rank in kept] if [token for token, _ in kept] == tokens else []


def _counts(session: Session) -> tuple[int, ...]:
    work, draft = session.work, session.draft_work
    return (work.forwards, work.positions, work.drafted, work.accepted, draft.forwards, draft.positions, work.whole)


def _note(steps: Steps, kept: int, seconds: float, before: tuple[int, ...], now: tuple[int, ...]) -> tuple[int, ...]:
    steps.tokens.append(kept)
    steps.seconds.append(seconds)
    columns = (steps.forwards, steps.positions, steps.drafted, steps.accepted, steps.draft_forwards,
               steps.draft_positions, steps.whole)
    for column, old, new in zip(columns, before, now, strict=True):
        column.append(new - old)
    return now
