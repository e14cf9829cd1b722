"""Training of a network that imitates the votes of a datastore's neighbours."""

from collections.abc import Callable
from math import cos, pi
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from harness.engine.engine import Engine
from harness.heads.network import TargetParts
from strategies.parts.imitation import Imitation
from strategies.parts.neighbours import Datastore

SEARCHED = 1024  # keys searched at a time


class Votes(NamedTuple):
    """The tokens (N, k) of the neighbours of entries, and their weights."""

    tokens: Tensor
    weights: Tensor

    def law(self, rows: Tensor, vocab: int) -> Tensor:
        """Return the distributions (B, V) of some entries."""
        weights = self.weights[rows]
        return torch.zeros(len(rows), vocab).scatter_add_(1, self.tokens[rows].long(), weights)


def votes_of_others(store: Datastore, k: int, spread: float) -> Votes:
    """Return the votes of the neighbours of each entry of a datastore, which has two or more, without itself."""
    tokens, weights = list[Tensor](), list[Tensor]()
    for start in range(0, len(store.values), SEARCHED):
        keys, own = store.keys[start:start + SEARCHED], store.values[start:start + SEARCHED]
        distances, values = store.nearest(np.asarray(keys, np.float32), k + 1)
        near = distances <= distances[:, :1] + 1e-4 * np.square(keys.astype(np.float32)).sum(-1, keepdims=True)
        itself = np.where((match := near & (values == own[:, None])).any(1), match.argmax(1), values.shape[1] - 1)
        others = np.arange(values.shape[1]) != itself[:, None]
        left = torch.from_numpy(distances[others].reshape(len(own), -1))
        tokens.append(torch.from_numpy(values[others].reshape(len(own), -1)))
        weights.append(torch.softmax(left / -spread, -1))
    return Votes(torch.cat(tokens), torch.cat(weights))


@torch.inference_mode(False)
def trained(engine: Engine, store: Datastore, votes: Votes, *, blocks: int = 2, inner: int = 512, steps: int = 1500,
            size: int = 256, rate: float = 1e-3, alpha: float = 0.5, seed: int = 0,
            tell: Callable[[int, float], None] = lambda step, loss: None) -> Imitation:
    """Return a network trained for `steps` batches of `size` entries; the learning rate falls to 0 with a cosine."""
    random, device = torch.Generator().manual_seed(seed), engine.device
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = Imitation(TargetParts.of(engine), blocks, inner).to(device)
    optimizer, mean = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01), 0.0
    for step in range(1, steps + 1):
        rows = torch.randint(len(store.values), (size,), generator=random)
        keys = torch.from_numpy(store.keys[rows.numpy()].astype(np.float32)).to(device)
        own, law = torch.from_numpy(store.values[rows.numpy()]).long().to(device), votes.law(rows, engine.vocab)
        with torch.enable_grad():
            found = network(keys)
            loss = alpha * functional.kl_div(found, law.to(device), reduction="batchmean") + (
                1 - alpha) * functional.nll_loss(found, own)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 + cos(pi * step / steps)) / 2
        optimizer.step()
        mean = loss.item() if step == 1 else 0.98 * mean + 0.02 * loss.item()
        if step % 100 == 0 or step == steps:
            tell(step, mean)
    return network.eval().requires_grad_(False)
