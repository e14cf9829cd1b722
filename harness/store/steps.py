"""Builds the steps of answers that other software decoded, from the counts that it reports."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

from harness.store.schema import Steps


def spread(total: int, parts: int) -> list[int]:
    """Split `total` into `parts` whole numbers that differ by at most one."""
    return [(i + 1) * total // parts - i * total // parts for i in range(parts)]


def fitted(lengths: Sequence[int], limit: int) -> list[int]:
    """Return the tokens of each step, cut to `limit` in total, because an answer may end inside a step."""
    ends = [min(limit, end) for end in accumulate(lengths, initial=0)]
    return [end - start for start, end in pairwise(ends)]


def steps(tokens: Sequence[int], seconds: Sequence[float] = (), **counts: Sequence[int]) -> Steps:
    """Return steps from their tokens and, if known, seconds and other counts."""
    return Steps(tokens=list(tokens), seconds=list(seconds) or [float("nan")] * len(tokens),
                 **{name: list(values) for name, values in counts.items()})


def verified(tokens: int, accepted: Sequence[int], drafted: Sequence[int] = (),
             times: tuple[float, float] | None = None) -> Steps:
    """Return the steps of an answer of `tokens`: the prefill, one per verification, then those without drafts.

    The prefill emits one token, a verification one more than it `accepted`. `times` are the seconds of the first step
    and of all others, which share them equally.
    """
    if not tokens:
        return Steps()
    emitted = fitted([count + 1 for count in accepted], tokens - 1)
    plain = tokens - 1 - sum(emitted)
    counts = {"accepted": [0, *accepted, *[0] * plain]} | ({"drafted": [0, *drafted, *[0] * plain]} if drafted else {})
    later = len(emitted) + plain
    seconds = [times[0], *[times[1] / max(1, later)] * later] if times else []
    return steps([1, *emitted, *[1] * plain], seconds, **counts)


def expanded(histogram: Sequence[int]) -> list[int]:
    """Expand a histogram of accepted drafts: [39, 1, 0, 3] is 39 steps with 0, one with 1 and three with 3."""
    return [accepted for accepted, count in enumerate(histogram) for _ in range(count)]
