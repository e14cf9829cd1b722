"""Which candidates are in the cache and what each attends to, as a forest grows and loses branches."""

from typing import cast

import torch

from harness.engine.candidates import Candidates
from harness.engine.forward import ForwardOutput, ForwardRows
from harness.engine.hidden_memory import HiddenMemory
from harness.engine.tree import TokenTree


def output(count: int) -> ForwardRows:
    return ForwardRows(ForwardOutput(torch.eye(count)[None], torch.zeros(1, count, 4)), 0, 0, count)


def add(candidates: Candidates, parents: list[int]) -> list[int]:
    visible = candidates.visible_to(parents)
    return candidates.add([node + 10 for node in parents], parents, visible, output(len(parents)))


def test_nodes_attend_to_their_ancestors_and_themselves() -> None:
    candidates = Candidates()
    assert add(candidates, [-1, -1]) == [0, 1]
    assert candidates.visible_to([1, 0, -1]).int().tolist() == [[0, 1, 1, 0, 0], [1, 0, 0, 1, 0], [0, 0, 0, 0, 1]]
    assert add(candidates, [1, 0]) == [2, 3]
    assert (candidates.parents, candidates.slots, candidates.retained) == ([-1, -1, 1, 0], [0, 1, 2, 3], [0, 1, 2, 3])
    assert candidates.visible.int().tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 1, 1, 0], [1, 0, 0, 1]]


def test_slots_are_gathered_once_many_are_unused() -> None:
    candidates = Candidates()
    add(candidates, [-1] * 40)
    assert candidates.retain([7, 3]) == [3, 7]
    assert (candidates.slots, candidates.retained) == ([3, 7], [7, 3])
    assert candidates.visible_to([3]).int().tolist() == [[1, 0, 1]]
    assert add(candidates, [7, 3]) == [40, 41]
    assert candidates.retain([41]) == []
    assert candidates.slots == [3, 7, 40, 41]
    assert candidates.visible.int().tolist() == [[1, 0, 0, 1]]


def test_only_nodes_of_the_latest_forward_have_an_output() -> None:
    candidates = Candidates.of(TokenTree((5, 6), (-1, 0)), output(2))
    assert cast(ForwardRows, candidates.output_of(1)).best == [1]
    add(candidates, [1])
    assert candidates.output_of(1) is None
    assert cast(ForwardRows, candidates.output_of(2)).best == [0]


def test_hidden_states_are_overwritten_moved_and_kept_when_room_grows() -> None:
    memory, states = HiddenMemory(), torch.arange(300.0)[:, None].expand(300, 3)
    assert memory.first(0).shape[0] == 0
    memory.write(states[:200], 0)
    memory.write(states[200:], 200)
    assert torch.equal(memory.first(300), states)
    memory.move([250, 252], 100)
    assert memory.first(103)[:, 0].tolist() == [*range(100), 250, 252, 102]
    memory.write(states[:2], 101)
    assert memory.first(103)[100:, 0].tolist() == [250, 0, 1]
