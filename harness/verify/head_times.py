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
from harness.heads.network import Network
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
    depths, and there are no later ones. The first draft of a sequence is timed, too: a head with a KV cache reads all
    of the sequence then.
    """
    kind, network = STRATEGIES.get(head.card.kind), head.network
    assert issubclass(kind, Trained)
    session = Session(model.engine, remember=model.engine.remembered([head.card.kind]))
    session.follow(context)
    session.read()
    expander, sequence = kind.expander(session, network), [*context, context[0]]
    widths = widths[:1] if network.free else widths
    prompt, first, later = list[float](), list[float](), {width: list[float]() for width in widths}
    for number in range(1 + rounds):
        times = _draft(kind.expander(session, network), network, sequence, 1, clock)
        prompt += times[:1] if number else []  # the first round is a warm-up
        for width in widths:
            expander.start(sequence[:max(2, len(context) - 1)])  # two tokens are then new, as after an accepted draft
            _ = session.read(TokenTree.chain(list(islice(cycle(context), width)))).best  # waits for the forward
            times = _draft(expander, network, sequence, width, clock)
            first += times[:1] if number else []
            later[width] += times[1:] if number else []
    session.close()
    seconds = [median(taken or [0.0]) for taken in later.values()]
    return HeadTimes(prompt=median(prompt), first=median(first), tokens=list(widths), seconds=seconds,
                     weight_bytes=sum(weight.nbytes for weight in network.parameters()))


def _draft(expander: Expander, network: Network, sequence: list[int], width: int, clock: Clock) -> list[float]:
    """Return the seconds of each step, of which the later ones read `width` nodes below those of the step before."""
    times = [clock()]
    logits, state = expander.start(sequence)
    for depth in range(1, 1 + network.depth):
        _ = logits.argmax().item()  # waits for the step
        times.append(clock())
        if depth < network.depth:
            own = torch.eye(width, dtype=torch.bool).repeat(1, depth)
            logits, state = expander.grow(state.expand(width, *state.shape[1:]), sequence[:1] * width, depth, own)
    return [times[-1] - times[0]] if network.free else [end - start for start, end in pairwise(times)]
