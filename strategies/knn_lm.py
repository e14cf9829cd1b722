"""kNN-LM: mix the model's distribution with the next tokens at the most similar positions of a datastore.

Khandelwal et al. 2019 (arXiv 1911.00172, §2). The key of a position is the input of the last MLP after its norm. Each
of the `k` nearest keys in a datastore votes for the token that followed it, with a weight of
exp(−d/`spread`), d the squared distance. The distribution is `lam` times the votes plus 1 − `lam` times the model's;
`temperature` and `p` act on that. `store` "nano" is made of the embedded training corpus when it is first used, for the
embedded models, and kept in the user's cache folder; for other models name a folder made by `python -m
strategies.tools.knn_datastore`. If its index has cells, `probes` of them are searched, and distances are those
to the keys if `exact`, as in the authors' code, else those to the codes, as in knn-transformers.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.engine.engine import Engine
from harness.engine.session import Reading
from harness.plugins.strategy import knob
from strategies.parts.keys import NAME
from strategies.parts.mixture import Mixture
from strategies.parts.neighbours import Datastore
from strategies.tools.knn_datastore import named


@dataclass(frozen=True)
class KnnLm(Mixture[Datastore]):
    """Identities: `lam=0` is `top_p` with the same knobs; `lam=1,k=1` always takes the token after the nearest key."""

    k: int = knob(1024, "neighbours", low=1, high=65536, sweep=(8, 64, 1024))
    lam: float = knob(0.25, "weight of the votes; 0 is the model alone", low=0, high=1, sweep=(0.1, 0.25, 0.4, 0.8))
    spread: float = knob(1.0, "divides squared distances", low=1e-6, high=1e6, sweep=(1.0, 10.0, 100.0))
    store: str = knob("nano", "the embedded corpus, or a folder of python -m strategies.tools.knn_datastore", file=True)
    probes: int = knob(32, "cells that are searched", low=1, high=65536, sweep=(8, 32))
    exact: bool = knob(True, "use distances to the keys instead of their codes", sweep=(True, False))
    temperature: float = knob(0.0, "temperature of the mixture; 0 is greedy", low=0, high=10, sweep=(0.0, 0.7, 1.0))
    p: float = knob(1.0, "mass of the nucleus", low=0, high=1, sweep=(0.8, 0.9, 1.0), also="top_p")

    paper: ClassVar[str] = "Khandelwal et al. 2019, arXiv 1911.00172"

    def opened(self, engine: Engine) -> Datastore:
        """Return the datastore; raises `Unsupported` when it is not one of this model."""
        return named(self.store, self.name, engine)

    def votes(self, reading: Reading, datastore: Datastore) -> Tensor:
        """Compute the neighbours' distribution (1 + N, V) in float32; zeros where there are none."""
        logits, queries = reading.logits, reading.captured(NAME).float().cpu().numpy()
        distances, values = datastore.nearest(queries, self.k, self.probes, self.exact)
        weights = torch.softmax(torch.from_numpy(distances) / -self.spread, -1).nan_to_num()
        share = torch.zeros(logits.shape).scatter_add_(-1, torch.from_numpy(values).long(), weights)
        return share.to(logits.device)
