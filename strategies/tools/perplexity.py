"""Measure the perplexity of kNN-LM with and without its datastore, and the entropy of the neighbours' votes.

`python -m strategies.tools.perplexity` scores held-out texts of the embedded corpus, `--texts` others. The neighbours'
entropy rises along a text as retrieval degrades (Wang et al. 2023, arXiv 2305.14625, §5).
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from harness import nano
from harness.engine.engine import Engine
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import UserError, program
from harness.plugins.registry import STRATEGIES
from strategies.drafters import texts
from strategies.knn_lm import KnnLm
from strategies.parts.keys import WATCH, WINDOW
from strategies.tools.knn_datastore import named

PARTS = 4


class Score(NamedTuple):
    """For every token but the first: nats without and with the datastore, and the entropy of the votes in nats."""

    own: Tensor
    mixed: Tensor
    entropy: Tensor


@torch.inference_mode()
def score(method: KnnLm, engine: Engine, tokens: Sequence[int]) -> Score:
    """Score token ids, at least two, in one forward."""
    datastore, session = named(method.store, method.name, engine), Session(engine)
    session.follow(tokens[:1])
    reading = session.read(TokenTree.chain(tokens[1:-1]), WATCH)
    session.close()
    nexts, votes = torch.tensor(tokens[1:], device=engine.device)[:, None], method.votes(reading, datastore)
    own, mixed = (-log_p.gather(-1, nexts)[:, 0] for log_p in
                  (reading.logits.log_softmax(-1), method.mixed(reading, datastore).log_softmax(-1)))
    return Score(own, mixed, torch.special.entr(votes).sum(-1))


def main() -> None:
    """Print perplexities and entropies."""
    from harness.models.loading import load

    parser = argparse.ArgumentParser(description="Perplexity of texts under knn_lm and under the model alone.")
    parser.add_argument("--model", default=nano.NAMES[0], help="nano, a folder or a hub id")
    parser.add_argument("--strategy", default="knn_lm", help="knn_lm with its knobs, as in decodebench run")
    parser.add_argument("--texts", type=Path, help="a file or a folder; default: held-out texts of the embedded corpus")
    parser.add_argument("--count", type=int, default=10, help="texts of each kind of the embedded corpus")
    options = parser.parse_args()
    method = STRATEGIES.build(options.strategy)
    if not isinstance(method, KnnLm):
        raise UserError(f"--strategy must be knn_lm with its knobs, not '{options.strategy}'.")
    model = load(options.model)
    corpus = texts.given(options.texts) if options.texts else texts.corpus(count=options.count, split="test")
    limit = min(WINDOW, model.engine.max_len)
    scores = [score(method, model.engine, ids[:limit]) for ids in model.tokenizer(corpus).input_ids if len(ids) > 1]
    if not scores:
        raise UserError("no text has two tokens; use longer texts.")
    own, mixed = (torch.cat(parts).mean().exp() for parts in ([s.own for s in scores], [s.mixed for s in scores]))
    print(f"{sum(len(s.own) for s in scores)} tokens: perplexity {own:.4f} alone, {mixed:.4f} with neighbours")
    along = [torch.cat([s.entropy.tensor_split(PARTS)[part] for s in scores]).mean() for part in range(PARTS)]
    print(f"entropy of the votes in nats, by quarters of a text: {', '.join(f'{value:.3f}' for value in along)}")


if __name__ == "__main__":
    program(main)
