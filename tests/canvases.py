"""Models that fill masks, for the tests: an enumerated joint distribution, and tiny random ones."""

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from harness.engine.canvas_settings import CanvasSettings
from harness.engine.engine import Engine
from tests.decode import engine
from tests.markov import Decoder
from tests.models import tiny_model

MASK = 0


class TableDenoiser(nn.Module):
    """A joint distribution over texts of a fixed length: the logits of a mask are its exact marginals, given the rest.

    The texts follow a prompt of one token, which is ignored.
    """

    def __init__(self, joint: Mapping[tuple[int, ...], float]) -> None:
        super().__init__()
        self.texts, weights = torch.tensor(list(joint)), torch.tensor(list(joint.values()), dtype=torch.float64)
        self.weights, self.vocab = weights / weights.sum(), int(self.texts.max()) + 1
        text = SimpleNamespace(num_hidden_layers=0, layer_types=None, vocab_size=self.vocab)
        self.config = SimpleNamespace(get_text_config=lambda: text, canvas={"mask": MASK})
        self.device, self.dtype, self.decoder = torch.device("cpu"), torch.float32, Decoder(self.vocab)

    def get_decoder(self) -> nn.Module:
        return self.decoder

    def forward(self, input_ids: Tensor, position_ids: Tensor, logits_to_keep: int, **_: object) -> Any:
        self.decoder(input_ids)
        count, places = self.texts.shape[1], position_ids[0]
        text = input_ids.new_zeros(1 + count).scatter(0, places, input_ids[0])
        logits = torch.zeros(1 + count, self.vocab)
        logits[1:] = self.marginals(text[1:].tolist()).log()
        return SimpleNamespace(logits=logits[places][None, -logits_to_keep:])

    def marginals(self, text: Sequence[int]) -> Tensor:
        """The distribution (N, V) of each place, given what is no mask."""
        known = torch.tensor(text)
        weights = self.weights * ((self.texts == known) | (known == MASK)).all(1)
        return torch.stack([torch.zeros(self.vocab, dtype=torch.float64).index_add(0, column, weights)
                            for column in self.texts.T]) / weights.sum()


def table(joint: Mapping[tuple[int, ...], float]) -> Engine:
    """Create an engine over an enumerated joint distribution."""
    return Engine(TableDenoiser(joint), 64)


@cache
def random_canvas(shift: bool = False, block: int = 0, both: bool = False, layers: int = 2) -> Engine:
    """Create an engine over a tiny random model that fills masks."""
    made = engine(tiny_model("llama", layers=layers))
    made.canvas = CanvasSettings(MASK, shift, block, both)
    return made


def settings() -> Iterator[tuple[bool, int, bool]]:
    """Shift, block and both of the models that are tried."""
    yield from [(shift, block, both) for shift in (False, True) for block, both in ((0, False), (4, False), (4, True))]
