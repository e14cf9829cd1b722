"""MLP memory: mix the model's distribution with that of a network which imitates kNN-LM.

Wei et al. 2025 (arXiv 2508.01832). A network of MLPs without attention reads the key of a token, which is that of
`knn_lm`, the input of the last MLP after its norm, and predicts the votes of the nearest neighbours in a datastore. The
distribution is `lam` times the network's plus 1 − `lam` times the model's. Nothing is searched, and no datastore is
kept. `python -m strategies.tools.mlp_memory` trains the network on the entries of a datastore: each against the votes
of its other entries, and against the token that followed. `temperature` and `p` act on the mixture.

The authors train on a whole pre-training set; here it is the datastore of `knn_lm`. The shape of the network is not
theirs: residual blocks of a norm and two products, and the output layer of the model.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from harness.engine.engine import Engine
from harness.engine.session import Reading
from harness.errors import UserError
from harness.plugins.strategy import knob
from strategies.parts.imitation import COMMAND, Imitation, load
from strategies.parts.keys import NAME
from strategies.parts.mixture import Mixture


@dataclass(frozen=True)
class MlpMemory(Mixture[Imitation]):
    """Identity: `lam=0` is `top_p` with the same knobs."""

    memory: str = knob("", "file of python -m strategies.tools.mlp_memory", file=True)
    lam: float = knob(0.25, "weight of the memory; 0 is the model alone", low=0, high=1, sweep=(0.0, 0.1, 0.25, 0.4))
    temperature: float = knob(0.0, "temperature of the mixture; 0 is greedy", low=0, high=10, sweep=(0.0, 0.7, 1.0))
    p: float = knob(1.0, "mass of the nucleus", low=0, high=1, sweep=(0.8, 0.9, 1.0), also="top_p")

    paper: ClassVar[str] = "Wei et al. 2025, arXiv 2508.01832"

    def opened(self, engine: Engine) -> Imitation:
        """Return the network; raises `UserError` without a file."""
        if not self.memory:
            raise UserError(f"mlp_memory needs a memory: train one with {COMMAND} and give memory=FILE.")
        return load(self.memory, engine)

    def votes(self, reading: Reading, memory: Imitation) -> Tensor:
        """Compute the network's distribution (1 + N, V)."""
        found: Tensor = memory(reading.captured(NAME).float()).exp()
        return found
