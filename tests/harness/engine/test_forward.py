"""What a forward costs in transfers, and masks that any device takes."""

from typing import Any

import pytest
import torch
from torch import Tensor

from harness.engine.forward import ForwardOutput, ForwardRows
from harness.engine.session import Session
from harness.engine.tree import EMPTY, TokenTree
from tests.decode import engine
from tests.models import prompts, tiny_model


class Counted(Tensor):
    """Counts the transfers from the device."""

    transfers = 0

    def tolist(self) -> list[Any]:
        """As a tensor does."""
        Counted.transfers += 1
        return torch.Tensor.tolist(self)  # type: ignore[no-any-return,no-untyped-call]


def test_the_best_tokens_of_a_batch_are_one_transfer() -> None:
    logits = torch.zeros(3, 2, 5)
    for row in range(3):
        logits[row, :, row + 1] = 1.0
    Counted.transfers = 0
    output = ForwardOutput(logits.as_subclass(Counted), torch.zeros(3, 4, 8))  # logits of the last 2 of 4 tokens
    assert [ForwardRows(output, row, 2, 4).best for row in range(3)] == [[1, 1], [2, 2], [3, 3]]
    assert ForwardRows(output, 1, 0, 4).part(3, 4).best == [2]
    assert Counted.transfers == 1


def test_warped_tokens_are_one_transfer(monkeypatch: pytest.MonkeyPatch) -> None:
    session, transfers = Session(engine(tiny_model("llama"))), list[int]()
    session.follow(prompts(1, 97, 4)[0])
    tree = TokenTree.chain([5, 6, 7])
    own = Tensor.tolist

    def counted(tensor: Tensor) -> Any:
        transfers.append(1)
        return own(tensor)
    with session.with_logit_warp(lambda logits, sequences: logits.neg()):
        reading = session.read(tree)
        worst = reading.logits.argmax(-1).tolist()
        monkeypatch.setattr(Tensor, "tolist", counted)
        monkeypatch.setattr(Tensor, "__int__", lambda tensor: pytest.fail("a transfer for one token"))
        assert reading.best == worst
    assert len(transfers) == 1
    session.close()


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
def test_no_mask_is_a_view_at_any_offset(arch: str) -> None:
    """CUDA kernels need masks that start at whole multiples of 16 bytes, row by row."""
    model, masks = tiny_model(arch), list[Tensor]()
    target = engine(model)
    target.parts.layers[0].attention.register_forward_pre_hook(
        lambda module, args, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True)
    session, text = Session(target), prompts(1, 97, 4)[0]
    for length in range(3, len(text)):
        session.follow(text[:length])
        session.read(EMPTY if length % 3 else TokenTree((5, 6, 7), (-1, 0, -1)))
    session.close()
    assert {mask.shape[2] for mask in masks} > {1, 4}
    for mask in masks:
        assert mask.data_ptr() % 16 == 0
        assert mask.storage_offset() == 0
        assert all(step * mask.element_size() % 16 == 0 for step in mask.stride()[:-1])
        rows = slice(None), slice(None), mask.shape[2] - 1
        assert int((mask[rows] == 0).sum()) in range(3, len(text) + 4)
