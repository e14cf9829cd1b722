"""Which requests share a forward: never dearer than the simple ways, and as the costs of the device have it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.engine.grouping import CPU, GPU, DeviceCosts, costs_of, grouped

Requests = list[tuple[int, int]]


def cost(groups: list[list[int]], requests: Requests, costs: DeviceCosts) -> int:
    """What `grouped` minimises, computed the plain way."""
    return sum(costs.forward + span(group, requests) * max(requests[i][1] for i in group) for group in groups)


def span(group: list[int], requests: Requests) -> int:
    rows = [requests[i][0] for i in group]
    return max(rows) - min(rows) + 1


@given(st.lists(st.tuples(st.integers(0, 80), st.integers(1, 600)), min_size=1, max_size=24, unique_by=lambda r: r[0]),
       st.sampled_from([CPU, GPU]))
def test_groups_hold_every_request_once_and_cost_no_more_than_the_simple_ways(requests: Requests, costs: DeviceCosts
                                                                              ) -> None:
    groups, one_group = grouped(requests, costs), list(range(len(requests)))
    assert sorted(i for group in groups for i in group) == one_group
    assert cost(groups, requests, costs) <= cost([[i] for i in one_group], requests, costs)
    if span(one_group, requests) * max(width for _, width in requests) <= costs.widest:
        assert cost(groups, requests, costs) <= cost([one_group], requests, costs)
    for group in groups:
        assert len(group) == 1 or span(group, requests) * max(requests[i][1] for i in group) <= costs.widest


@pytest.mark.parametrize(("requests", "on_cpu", "on_gpu"), [
    ([(0, 1), (1, 1), (2, 1)], [[0, 1, 2]], [[0, 1, 2]]),
    ([(0, 1), (1, 5), (2, 4)], [[1, 2, 0]], [[1, 2, 0]]),         # a little padding costs less than a forward
    ([(0, 1), (1, 100)], [[1], [0]], [[1, 0]]),                   # 99 places of padding: only on a GPU
    ([(0, 1), (1, 300), (2, 1)], [[1], [0, 2]], [[1], [0, 2]]),   # a prompt alone; the row between is one place
    ([(0, 1), (60, 1)], [[0], [1]], [[0, 1]]),                    # 59 rows between: only on a GPU
])
def test_what_shares_a_forward(requests: Requests, on_cpu: list[list[int]], on_gpu: list[list[int]]) -> None:
    for costs, groups in ((CPU, on_cpu), (GPU, on_gpu)):
        assert [sorted(group) for group in grouped(requests, costs)] == [sorted(group) for group in groups]


def test_a_device_decides() -> None:
    assert costs_of(torch.device("cpu")) == CPU
    assert costs_of(torch.device("cuda:1")) == GPU
