"""Groups requests into forward passes, given the costs of padding and of another forward on a device."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class DeviceCosts:
    """The costs of a forward pass on one type of device, in tokens.

    `forward` is the fixed cost of a forward: more padding than that costs more than a second forward. `widest` is the
    maximum number of tokens in one forward, padding included. The part of the cache that forwards attend to grows by
    `stride` slots.
    """

    forward: int
    widest: int
    stride: int


# Measured on nano: a forward over 8 tokens takes a third longer than over a single token, and beyond 1,024 tokens
# more tokens gain nothing and take memory.
CPU = DeviceCosts(forward=32, widest=1024, stride=32)
# Derived, not measured. A forward is bound by loading the weights up to peak arithmetic over memory bandwidth: in
# bfloat16 some 150 tokens (A100: 312 TFLOP/s, 2 TB/s) to 300 (H100: 989 TFLOP/s, 3.35 TB/s). The activations of 8,192
# tokens of a 7B model take less than 1 GB. Tiles of fused attention are up to 64 keys wide.
GPU = DeviceCosts(forward=256, widest=8192, stride=64)


def costs_of(device: torch.device) -> DeviceCosts:
    """Return the costs of a CPU, or those of a GPU for every other type of device."""
    return CPU if device.type == "cpu" else GPU


def grouped(requests: Sequence[tuple[int, int]], costs: DeviceCosts) -> list[list[int]]:
    """Split requests, given as (row, tokens), into the cheapest forward passes, padding included.

    Requests are sorted by length and split where a second forward costs less than padding; rows between those of a
    forward are padding too. Returns the indices of each group, the longest requests first.
    """
    order = sorted(range(len(requests)), key=lambda i: (-requests[i][1], requests[i][0]))
    ends = [i for i in range(1, len(order) + 1)
            if i == len(order) or requests[order[i]][1] != requests[order[i - 1]][1]]
    best: dict[int, tuple[int, list[list[int]]]] = {0: (0, [])}
    for end in ends:
        options = []
        for start, (cost, groups) in best.items():
            width = requests[order[start]][1]
            runs = list(_runs(sorted(order[start:end], key=lambda i: requests[i][0]), requests, width, costs))
            added = sum(costs.forward + (requests[run[-1]][0] - requests[run[0]][0] + 1) * width for run in runs)
            options.append((cost + added, groups + runs))
        best[end] = min(options, key=lambda option: option[0])
    return best[len(order)][1]


def _runs(group: Sequence[int], requests: Sequence[tuple[int, int]], width: int, costs: DeviceCosts
          ) -> Iterator[list[int]]:
    """Split a group, sorted by row, where the rows between cost more than a forward or the forward gets too wide."""
    run = [group[0]]
    for i in group[1:]:
        row = requests[i][0]
        if ((row - requests[run[-1]][0] - 1) * width > costs.forward
                or (row - requests[run[0]][0] + 1) * width > costs.widest):
            yield run
            run = []
        run.append(i)
    yield run
