"""The training loop of all heads, and what a head achieves on answers that it was not trained on."""

import math
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from harness.heads.network import WIDTH, Network
from harness.laboratory.corpus import Batch, Corpus
from harness.store.files import replace_file

RANKS = 10      # candidates of a depth that are counted
WARM_UP = 30    # steps
LAST = 0.1      # of the peak rate, at the end
CLIP = 0.5      # norm of the gradient
REPORT = 100    # steps

Objective = Callable[[Batch, float], Tensor]  # the loss of a batch after a share of all steps


@dataclass(frozen=True)
class Point:
    """The state of a training run: the mean loss of the last steps, and `ranks` of `acceptance` on held-out answers."""

    step: int
    seconds: float
    loss: float
    ranks: list[list[float]]

    @property
    def tau(self) -> float:
        """Tokens of a step when one candidate is drafted at each depth, if depths were independent."""
        return 1 + sum(math.prod(row[0] for row in self.ranks[:depth]) for depth in range(1, len(self.ranks) + 1))


def train(network: Network, data: Corpus, held_out: Corpus, steps: int, size: int = 16, seed: int = 0,
          rate: float = 0.0, tell: Callable[[Point], None] = lambda point: None, kept: Path | None = None,
          objective: Objective | None = None) -> list[Point]:
    """Train a network in place for `steps` batches of `size` answers; returns its points, one every `REPORT` steps.

    `rate` is the peak learning rate; by default it is that of the recipe, less in proportion for wider models.
    After each point, everything is written to the file `kept`, from which the same call goes on. `objective` takes the
    place of `loss`.
    """
    torch.manual_seed(seed)
    peak = rate or network.recipe.rate * min(1.0, WIDTH / network.target.hidden)
    optimizer = torch.optim.AdamW(network.groups(), lr=peak, betas=(0.9, 0.95), weight_decay=0.0)
    points, before = _resumed(kept, network, optimizer), time.monotonic()
    done, spent = (points[-1].step, points[-1].seconds) if points else (0, 0.0)
    recent = points[-1].loss if points else math.nan
    for step, numbers in enumerate(islice(data.batches(size, seed), done, steps), start=done + 1):
        batch = data.batch(numbers, next(network.parameters()).device)
        with _precision(network, batch):
            value = objective(batch, step / steps) if objective else loss(network, batch, step % network.stride)
        current = _step(network, optimizer, value, peak * rate_at(step, steps))
        recent = current if math.isnan(recent) else 0.95 * recent + 0.05 * current
        if step % REPORT == 0 or step == steps:
            seconds = spent + time.monotonic() - before
            points.append(Point(step, seconds, recent, acceptance(network, held_out)))
            if kept:
                _keep(kept, network, optimizer, points)
            tell(points[-1])
    return points


def _step(network: Network, optimizer: torch.optim.Optimizer, value: Tensor, rate: float) -> float:
    """Make one step down from the loss `value` at this learning rate, and return the loss."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["share"]
    optimizer.zero_grad()
    value.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(network.parameters(), CLIP)
    optimizer.step()
    return value.item()


@contextmanager
def _precision(network: Network, batch: Batch) -> Iterator[None]:
    """Compute products in the precision of the target."""
    dtype = network.target.head.weight.dtype
    with torch.autocast(batch.hidden.device.type, dtype, enabled=dtype != torch.float32), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")  # of norms
        yield


def _keep(path: Path, network: Network, optimizer: torch.optim.Optimizer, points: Sequence[Point]) -> None:
    file = BytesIO()
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict(),
                "points": [asdict(point) for point in points]}, file)
    replace_file(path, file.getvalue())


def _resumed(path: Path | None, network: Network, optimizer: torch.optim.Optimizer) -> list[Point]:
    """Load what `_keep` wrote, if it did, and return its points."""
    if path is None or not path.exists():
        return []
    found = torch.load(path, weights_only=True)
    network.load_state_dict(found["network"])
    optimizer.load_state_dict(found["optimizer"])
    return [Point(**point) for point in found["points"]]


def rate_at(step: int, steps: int) -> float:
    """Return the share of the peak rate at a step from 1: it warms up, and falls with a cosine to `LAST`."""
    warm = min(1.0, step / WARM_UP)
    return warm * (LAST + (1 - LAST) * 0.5 * (1 + math.cos(math.pi * step / steps)))


def loss(network: Network, batch: Batch, phase: int = 0) -> Tensor:
    """Return the mean loss of the answers' tokens, summed over depths; a block network starts `phase` tokens later."""
    recipe = network.recipe
    total, first = torch.zeros((), device=batch.hidden.device), _first(batch) + phase
    laws, numbers = _laws(network, batch) if recipe.target else (None, batch.tokens)
    for depth, features in enumerate(network(batch.states, batch.tokens, first)):
        rows, places = _chosen(network, batch, depth, first)
        if not len(places[0]):  # the answers are too short for this depth
            break
        found, value = features[rows], torch.zeros_like(total)
        logits = network.logits(depth, found)
        if recipe.text:
            value = value + recipe.text * functional.cross_entropy(logits, batch.tokens[places])
        before = places[0], places[1] - 1  # the target's state that predicts the token
        if laws is not None:
            value = value + recipe.target * functional.cross_entropy(logits, laws[numbers[before]])
        if recipe.state:
            value = value + recipe.state * functional.smooth_l1_loss(network.aligned(found), batch.hidden[before])
        total = total + recipe.decay ** depth * value
    return total


def _first(batch: Batch) -> int:
    """Return the place before the first answer."""
    return max(0, int(batch.answer.int().argmax(1).min()) - 1)


@torch.no_grad()
def _laws(network: Network, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the target's distributions (N, V) of all tokens of answers, and which is after each token (B, T)."""
    before = functional.pad(batch.answer[:, 1:], (0, 1))
    law = network.law(batch.hidden[before])
    numbers = torch.zeros_like(batch.tokens).masked_scatter(before, torch.arange(len(law), device=law.device))
    return law, numbers


def _chosen(network: Network, batch: Batch, depth: int, first: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return which features of a depth count, and the places in the batch of the tokens that they predict.

    Features behind token t count if the token after t and the predicted one are of the answer.
    """
    ahead = 2 + depth
    chosen = (batch.answer[:, ahead:] & batch.answer[:, 1:1 - ahead])[:, first::network.stride]
    rows = chosen.nonzero(as_tuple=True)
    return rows, (rows[0], first + network.stride * rows[1] + ahead)


def acceptance(network: Network, data: Corpus, size: int = 64) -> list[list[float]]:
    """Return for each depth the share of tokens that are the first, second, … of its `RANKS` likeliest ones.

    Depth i counts only tokens before which the likeliest tokens of all earlier depths were right.
    """
    network.eval()
    hits, counts = torch.zeros(network.depth, RANKS), torch.zeros(network.depth)
    device = next(network.parameters()).device
    for start in range(0, len(data), size):
        batch = data.batch(range(start, min(start + size, len(data))), device)
        with torch.no_grad(), _precision(network, batch):
            _count(network, batch, hits, counts)
    network.train()
    shares: list[list[float]] = (hits / counts.clamp_min(1)[:, None]).tolist()
    return [[round(share, 4) for share in row] for row in shares]


def _count(network: Network, batch: Batch, hits: Tensor, counts: Tensor) -> None:
    """Add to `hits` (depths, ranks) and `counts` (depths,) what `acceptance` divides."""
    first = _first(batch)
    right = torch.ones_like(batch.answer)  # where all earlier depths were right
    for depth, features in enumerate(network(batch.states, batch.tokens, first)):
        rows, places = _chosen(network, batch, depth, first)
        best = network.logits(depth, features[rows]).topk(RANKS).indices
        found = (best == batch.tokens[places][:, None]) & right[rows][:, None]
        hits[depth] += found.sum(0).cpu()
        counts[depth] += right[rows].sum().cpu()
        right[rows] = found[:, 0]
