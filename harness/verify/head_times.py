"""Times the steps of trained heads on this machine."""

import time
from collections.abc import Sequence
from itertools import cycle, islice, pairwise
from statistics import median

import torch

from harness.backends.trace import Clock
from harness.decoding.trained import Trained
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.heads.expander import Expander
from harness.models.loading import Model
from harness.models.trained_head import Head
from harness.plugins.registry import STRATEGIES
from harness.store.schema import HeadTimes


@torch.inference_mode()
def head_times(model: Model, head: Head, context: Sequence[int], widths: Sequence[int], rounds: int,
               clock: Clock = time.perf_counter) -> HeadTimes:
    """Time the steps of a head behind `context` (token ids): the first one, and later ones over 1, 2, … nodes.

    As in decoding, a forward of the model comes before each draft and a draft goes through all depths, so that weights
    are as likely to be in a cache as there. The first step of a head whose steps do not depend on tokens is that of all
    depths, and there are no later ones.
    """
    kind = STRATEGIES.get(head.card.kind)
    assert issubclass(kind, Trained)
    session = Session(model.engine, remember=model.engine.remembered([head.card.kind]))
    session.follow(context)
    session.read()
    expander, sequence = kind.expander(session, head.network), [*context, context[0]]
    widths = widths[:1] if head.network.free else widths
    first, later = list[float](), {width: list[float]() for width in widths}
    for number in range(1 + rounds):
        for width in widths:
            expander.start(sequence[:max(2, len(context) - 1)])  # two tokens are then new, as after an accepted draft
            _ = session.read(TokenTree.chain(list(islice(cycle(context), width)))).best  # waits for the forward
            start, grown = _draft(expander, sequence, width, head.network.depth, clock)
            if number:  # the first round is a warm-up
                first.append(start + sum(grown) if head.network.free else start)
                later[width] += [0.0] if head.network.free else grown
    session.close()
    weights = sum(weight.nbytes for weight in head.network.parameters())
    seconds = [median(taken or [0.0]) for taken in later.values()]
    return HeadTimes(first=median(first), tokens=list(widths), seconds=seconds, weight_bytes=weights)


def _draft(expander: Expander, sequence: list[int], width: int, depth: int, clock: Clock) -> tuple[float, list[float]]:
    """Return the seconds of the first step and of each later one, over `width` nodes below those of the step before."""
    times = [clock()]
    logits, state = expander.start(sequence)
    for step in range(1, 1 + depth):
        _ = logits.argmax().item()  # waits for the step
        times.append(clock())
        if step < depth:
            own = torch.eye(width, dtype=torch.bool).repeat(1, step)
            logits, state = expander.grow(state.expand(width, *state.shape[1:]), sequence[:1] * width, step, own)
    passed = [end - start for start, end in pairwise(times)]
    return passed[0], passed[1:]
