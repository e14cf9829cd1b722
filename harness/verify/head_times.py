"""Times the steps of trained heads on this machine."""

import time
from collections.abc import Sequence
from itertools import cycle, islice
from statistics import median

import torch

from harness.backends.trace import Clock
from harness.decoding.trained import Trained
from harness.engine.session import Session
from harness.models.loading import Model
from harness.models.trained_head import Head
from harness.plugins.registry import STRATEGIES
from harness.store.schema import HeadTimes


@torch.inference_mode()
def head_times(model: Model, head: Head, context: Sequence[int], widths: Sequence[int], rounds: int,
               clock: Clock = time.perf_counter) -> HeadTimes:
    """Time the steps of a head behind `context` (token ids): the first one, and later ones over 1, 2, … nodes."""
    kind = STRATEGIES.get(head.card.kind)
    assert issubclass(kind, Trained)
    session = Session(model.engine, remember=model.engine.remembered([head.card.kind]))
    session.follow(context)
    session.read()
    expander, sequence = kind.expander(session, head.network), [*context, context[0]]
    first, later = list[float](), {width: list[float]() for width in widths}
    tokens = list(islice(cycle(context), max(widths)))
    for number in range(1 + rounds):
        expander.start(sequence[:-2])  # two tokens are then new, as after a step that accepted a draft
        began = clock()
        logits, state = expander.start(sequence)
        _ = logits.argmax().item()  # waits for the step, on a GPU too
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
