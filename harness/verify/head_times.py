"""Times the steps of trained heads on this machine."""

import time
from collections.abc import Sequence
from itertools import cycle, islice
from statistics import median

import torch

from harness.backends.trace import Clock
from harness.decoding.trained import Trained
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.models.loading import Model
from harness.models.trained_head import Head
from harness.plugins.registry import STRATEGIES
from harness.store.schema import HeadTimes


@torch.inference_mode()
def head_times(model: Model, head: Head, context: Sequence[int], widths: Sequence[int], rounds: int,
               clock: Clock = time.perf_counter) -> HeadTimes:
    """Time the steps of a head behind `context` (token ids): the first one, and later ones over 1, 2, … nodes.

    A forward of the model comes before each first step, as in decoding, so that the head's weights are not in a cache.
    The first step of a head whose steps do not depend on tokens is that of all depths.
    """
    kind = STRATEGIES.get(head.card.kind)
    assert issubclass(kind, Trained)
    session = Session(model.engine, remember=model.engine.remembered([head.card.kind]))
    session.follow(context)
    session.read()
    expander, sequence = kind.expander(session, head.network), [*context, context[0]]
    first, later = list[float](), {width: list[float]() for width in widths}
    tokens = list(islice(cycle(context), max(widths)))
    for number in range(1 + rounds):
        expander.start(sequence[:max(2, len(context) - 1)])  # two tokens are then new, as after an accepted draft
        _ = session.read(TokenTree.chain(tokens)).best  # waits for the forward, on a GPU too
        began = clock()
        logits, state = expander.start(sequence)
        for depth in range(1, head.network.depth if head.network.free else 1):
            logits, state = expander.grow(state, [0], depth, torch.ones(1, depth, dtype=torch.bool))
        _ = logits.argmax().item()
        first += [clock() - began] if number else []  # the first round is a warm-up
        for width in widths:
            own = torch.eye(width, dtype=torch.bool)
            began = clock()
            logits, _ = expander.grow(state.expand(width, -1), tokens[:width], 1, own)
            _ = logits.argmax().item()
            later[width] += [clock() - began] if number else []
            expander.start(sequence)  # drops the nodes
    session.close()
    weights = sum(weight.nbytes for weight in head.network.parameters())
    return HeadTimes(first=median(first), tokens=list(widths), seconds=[median(taken) for taken in later.values()],
                     weight_bytes=weights)
