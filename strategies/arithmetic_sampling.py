"""Arithmetic sampling: draw the samples of a prompt with evenly spaced codes, so that together they cover more.

Vilnis et al. 2022 (arXiv 2210.15458). A code is a number in [0, 1). Each decision of the other strategy divides [0, 1)
into an interval per outcome, takes the one that the code falls into, and stretches it to [0, 1) again. The `n` samples
of a group have codes at equal distances, shifted by the same random number: each sample alone has exactly the
distribution of the other strategy, but fewer samples begin in the same way than by chance. Further samples form groups
with another shift. Tokens are in the order of their ids; the authors shuffle them at each step.

`variant`: "paper" has n of n + 1 equally spaced codes, as in the authors' code; "systematic" has n of n; "antithetic"
draws pairs of samples with u and 1 − u at each step, tokens sorted by probability.

A code is followed until no other sample can have the same beginning, that is until the probability of the sequence so
far is no more than the distance of two codes. Then the sample's own random stream takes over, which changes no
distribution. The authors follow it to the end, but each step magnifies the rounding of the probabilities, and after
some twenty bits it would decide about the tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from harness.engine.random_stream import CPU, Stream
from harness.engine.session import Session
from harness.plugins.strategy import Over, Request, knob

GROUPS = 1 << 41         # the substream of the first group, beyond those of a prompt's samples
BELOW_ONE = 1 - 2.0 ** -53


@dataclass(frozen=True)
class ArithmeticSampling(Over):
    """Identity: with `n=1` the distribution is that of the other strategy, although the draws differ."""

    n: int = knob(8, "samples that share a shift: as many as the run takes of a prompt", low=1, high=100_000,
                  sweep=(4, 8, 16))
    variant: str = knob("paper", "how the codes are spaced", choices=("paper", "systematic", "antithetic"),
                        sweep=("paper", "systematic", "antithetic"))

    default_over: ClassVar[str] = "temperature"
    paper: ClassVar[str] = "Vilnis et al. 2022, arXiv 2210.15458"
    family: ClassVar[str] = "sampling"

    def generate(self, session: Session, request: Request) -> Iterator[Sequence[int]]:
        """Yield the steps of the other strategy, whose random decisions follow the code of this sample."""
        yield from self.over.generate(session, replace(request, stream=self.code(request)))

    def code(self, request: Request) -> Stream:
        """Return the random stream of this sample."""
        group, number = divmod(request.sample, 2 if self.variant == "antithetic" else self.n)
        common = request.common.branch(GROUPS + group)
        if self.variant == "antithetic":
            return Mirrored(request.stream, common, bool(number))
        first, spaces = (1, self.n + 1) if self.variant == "paper" else (0, self.n)
        return Code(request.stream, (float(common.uniform(1)) + (number + first) / spaces) % 1, 1 / spaces)


class Coded:
    """A random stream whose decisions follow numbers in [0, 1); other noise comes from `stream`."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream

    def uniform(self, count: int, device: torch.device = CPU) -> Tensor:
        """Return noise (count,) of the sample's own stream."""
        return self.stream.uniform(count, device)

    def branch(self, number: int) -> Stream:
        """Return a substream of the sample's own stream."""
        return self.stream.branch(number)


class Code(Coded):
    """Decisions follow the number `value` until its interval has at most the width `distance`."""

    def __init__(self, stream: Stream, value: float, distance: float) -> None:
        super().__init__(stream)
        self.value, self.distance, self.width = value, distance, 1.0

    def choose(self, weights: Tensor) -> int:
        """Return the index of `weights` (V,) whose interval holds the code."""
        if self.width <= self.distance:
            return self.stream.choose(weights)
        index, low, high = interval(weights, self.value)
        self._stretch(low, high)
        return index

    def coin(self, chance: float) -> bool:
        """Return whether the code is below `chance`."""
        if self.width <= self.distance or not 0 < chance < 1:
            return self.stream.coin(chance)
        below = self.value < chance
        self._stretch(*((0.0, chance) if below else (chance, 1.0)))
        return below

    def _stretch(self, low: float, high: float) -> None:
        self.width *= high - low
        self.value = min((self.value - low) / (high - low), BELOW_ONE)


class Mirrored(Coded):
    """Decisions follow the numbers u of the stream `pair`, or 1 − u if `mirrored`."""

    def __init__(self, stream: Stream, pair: Stream, mirrored: bool) -> None:
        super().__init__(stream)
        self.pair, self.mirrored = pair, mirrored

    def choose(self, weights: Tensor) -> int:
        """Return an index of `weights` (V,), whose intervals are sorted from the largest to the smallest."""
        ordered, order = weights.sort(descending=True, stable=True)
        return int(order[interval(ordered, self._number())[0]])

    def coin(self, chance: float) -> bool:
        """Return whether the next number is below `chance`."""
        return self._number() < chance

    def _number(self) -> float:
        u = float(self.pair.uniform(1))
        return min(1 - u, BELOW_ONE) if self.mirrored else u


def interval(weights: Tensor, value: float) -> tuple[int, float, float]:
    """Return the index of `weights` (V,) whose part of [0, 1) holds `value`, and the ends of that part."""
    total = torch.cumsum(weights.double(), 0)
    ends = torch.cat([total.new_zeros(1), total / total[-1:]])
    place = torch.searchsorted(ends[1:], value, right=True).clamp(max=len(weights) - 1)[None]
    index, low, high = torch.cat([place, ends[place], ends[place + 1]]).tolist()
    return int(index), low, high
