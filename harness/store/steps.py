"""Steps of answers that other software decoded, from what it counts of them."""

from collections.abc import Sequence
from itertools import accumulate, pairwise

from harness.store.schema import Steps


def spread(total: int, parts: int) -> list[int]:
    """`total` as evenly over `parts` as whole numbers allow."""
    return [(i + 1) * total // parts - i * total // parts for i in range(parts)]


def fitted(lengths: Sequence[int], most: int) -> list[int]:
    """The tokens of steps, cut where they are more than `most` together: an answer may end inside a step."""
    ends = [min(most, end) for end in accumulate(lengths, initial=0)]
    return [end - start for start, end in pairwise(ends)]


def steps(tokens: Sequence[int], seconds: Sequence[float] = (), **counts: Sequence[int]) -> Steps:
    """Steps of which only the tokens are sure to be known."""
    return Steps(tokens=list(tokens), seconds=list(seconds) or [float("nan")] * len(tokens),
                 **{name: list(values) for name, values in counts.items()})


def verified(tokens: int, accepted: Sequence[int], drafted: Sequence[int] = (),
             times: tuple[float, float] | None = None) -> Steps:
    """The steps of an answer of `tokens`: the prompt's (one token), each verification's, then those without a draft.

    A verification emits what it `accepted` and one more. `times` are the seconds of the first step and of all others,
    which share them equally.
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
    """[39, 1, 0, 3] → 39 steps that accepted 0, one 1, and three 3."""
    return [accepted for accepted, count in enumerate(histogram) for _ in range(count)]
