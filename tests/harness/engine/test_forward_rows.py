"""The part of a shared forward that belongs to one sequence."""

import pytest
import torch

from harness.engine.forward import ForwardOutput, ForwardRows


@pytest.mark.parametrize(("last", "kept"), [(10, 8), (7, 5), (2, 0), (1, 0)])
def test_rows_without_logits_are_left_out(last: int, kept: int) -> None:
    """Of ten tokens, the last eight have logits; a shorter sequence is padded on the right."""
    logits = torch.arange(2.0, 10.0)[None, :, None].expand(1, 8, 5)
    rows = ForwardRows(ForwardOutput(logits, torch.zeros(1, 10, 3)), 0, 0, last)
    assert rows.logits[:, 0].tolist() == list(range(2, 10))[:kept]
    assert len(rows.best) == kept
