"""Train the network of the strategy mlp_memory on a datastore, and compare it with kNN-LM.

`python -m strategies.tools.mlp_memory --out FILE` learns from the datastore of the embedded corpus, `--store` names
another of `strategies.tools.knn_datastore`. The loss of an entry is `alpha` times the KL divergence of the votes of its
neighbours, without itself, from the network's distribution, plus 1 − `alpha` times −log p of its token. On held-out
texts of the embedded corpus, or those of `--texts`, it prints the perplexity of the mixtures, the KL divergence of the
neighbours' votes from the network's distribution and from the model's, time and size.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from harness import nano
from harness.engine.engine import Engine
from harness.engine.session import Reading, Session
from harness.engine.tree import TokenTree
from harness.errors import UserError, program
from strategies.drafters import texts
from strategies.knn_lm import KnnLm
from strategies.mlp_memory import MlpMemory
from strategies.parts.imitating import trained, votes_of_others
from strategies.parts.imitation import Imitation
from strategies.parts.keys import WATCH, WINDOW
from strategies.parts.neighbours import Datastore

LEAST = 1e-9  # probability in the divergence of votes from a distribution, which may be 0


class Scores(NamedTuple):
    """Perplexities of the model and of both mixtures, KL of the votes from network and model, milliseconds a token."""

    alone: float
    with_neighbours: float
    with_network: float
    network_kl: float
    model_kl: float
    search_ms: float
    network_ms: float


@torch.inference_mode()
def compared(engine: Engine, store: Datastore, network: Imitation, knn: KnnLm, mlp: MlpMemory,
             held_out: Sequence[Sequence[int]]) -> Scores:
    """Compare both memories on texts (token ids) of at least two tokens, asked one token at a time for the times."""
    rows, seconds = list[Tensor](), [0.0, 0.0]
    asks: tuple[Callable[[Reading], Tensor], ...] = (lambda last: knn.votes(last, store),
                                                     lambda last: mlp.votes(last, network))
    for tokens in held_out:
        session = Session(engine)
        session.follow(tokens[:1])
        reading = session.read(TokenTree.chain(tokens[1:-1]), WATCH)
        session.close()
        nexts = torch.tensor(tokens[1:], device=engine.device)[:, None]
        laws = [reading.logits.log_softmax(-1), knn.mixed(reading, store), mlp.mixed(reading, network)]
        nats = [-law.gather(-1, nexts)[:, 0] for law in laws]
        votes, imitated = knn.votes(reading, store), mlp.votes(reading, network)
        kls = [(torch.special.entr(votes).neg() - votes * law.clamp_min(LEAST).log()).sum(-1)
               for law in (imitated, laws[0].exp())]
        rows.append(torch.stack([*nats, *kls]))
        one = Session(engine)
        one.follow(tokens[:2])
        last = one.read(hook=WATCH)
        one.close()
        for place, ask in enumerate(asks):
            start = time.perf_counter()
            ask(last)
            seconds[place] += time.perf_counter() - start
    means = torch.cat(rows, 1).mean(1)
    alone, near, net = means[:3].exp().tolist()
    own_kl, model_kl = means[3:].tolist()
    search, asked = (1000 * each / len(held_out) for each in seconds)
    return Scores(alone, near, net, own_kl, model_kl, search, asked)


def main() -> None:
    """Train, write, and compare."""
    from harness.models.loading import load

    parser = argparse.ArgumentParser(description="Train the network of the strategy mlp_memory.")
    parser.add_argument("--model", default=nano.NAMES[0], help="model of the keys: nano, a folder or a hub id")
    parser.add_argument("--store", default="nano", help="folder of a datastore; default: that of the embedded corpus")
    parser.add_argument("--texts", type=Path, help="held-out texts, a file or a folder; default: the embedded corpus")
    parser.add_argument("--k", type=int, default=32, help="neighbours that vote")
    parser.add_argument("--spread", type=float, default=1.0, help="divides squared distances")
    parser.add_argument("--blocks", type=int, default=2, help="MLPs of the network")
    parser.add_argument("--inner", type=int, default=512, help="neurons of an MLP")
    parser.add_argument("--steps", type=int, default=1500, help="batches")
    parser.add_argument("--size", type=int, default=256, help="entries of a batch")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate at the start")
    parser.add_argument("--alpha", type=float, default=0.5, help="weight of the votes in the loss")
    parser.add_argument("--lam", type=float, default=0.25, help="weight of a memory in the mixtures")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    o = parser.parse_args()
    if low := next((name for name in ("blocks", "inner", "steps", "size") if getattr(o, name) < 1), None):
        raise UserError(f"--{low} must be at least 1, not {getattr(o, low)}.")
    if not 0 <= o.alpha <= 1 or o.rate <= 0:
        raise UserError("--alpha must be from 0 to 1, and --rate above 0.")
    knn, mlp = KnnLm(k=o.k, lam=o.lam, spread=o.spread, store=o.store), MlpMemory(lam=o.lam)
    model = load(o.model)
    engine, store = model.engine, knn.opened(model.engine)
    if len(store.values) < 2:
        raise UserError(f"the datastore '{o.store}' has one entry; use one of longer texts.")
    network = trained(engine, store, votes_of_others(store, o.k, o.spread), blocks=o.blocks, inner=o.inner,
                      steps=o.steps, size=o.size, rate=o.rate, alpha=o.alpha, seed=o.seed,
                      tell=lambda step, loss: print(f"step {step} of {o.steps}: loss {loss:.3f}", file=sys.stderr))
    start = torch.from_numpy(store.keys[:store.start.positions].astype("float32"))
    network.save(o.out, store.start, start)
    corpus = texts.given(o.texts) if o.texts else texts.corpus(count=10, split="test")
    limit = min(WINDOW, engine.max_len)
    held_out = [ids[:limit] for ids in model.tokenizer(corpus).input_ids if len(ids) > 1]
    if not held_out:
        raise UserError("no text has two tokens; use longer texts.")
    print(report(compared(engine, store, network, knn, mlp, held_out), store, network))


def report(scores: Scores, store: Datastore, network: Imitation) -> str:
    """Return the table of the comparison."""
    size = store.keys.nbytes + store.values.nbytes
    return "\n".join([
        f"{'':<10}{'perplexity':>12}{'KL of votes':>13}{'ms a token':>12}{'bytes':>12}",
        f"{'model':<10}{scores.alone:>12.4f}{scores.model_kl:>13.3f}",
        f"{'knn_lm':<10}{scores.with_neighbours:>12.4f}{0:>13.3f}{scores.search_ms:>12.3f}{size:>12,}",
        f"{'mlp_memory':<10}{scores.with_network:>12.4f}{scores.network_kl:>13.3f}{scores.network_ms:>12.3f}"
        f"{network.size:>12,}"])


if __name__ == "__main__":
    program(main)
