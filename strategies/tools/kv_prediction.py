"""Fit the maps of the strategy kv_prediction, and tell what they spare and what they change.

`python -m strategies.tools.kv_prediction --model NAME --draft NAME --out FILE` fits them to the texts of the embedded
corpus that no model was trained on, or to those of `--texts`. On other texts it prints, for a first half as the prompt,
the KL divergence of the first token's distribution from that of the target after a prefill, and how often both have the
same likeliest token; beside it, the same of the draft model alone. Of the operations before the first token it counts
those with weights and maps: 2 for each weight and token.
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
from harness.errors import UserError, program
from harness.run.loading import load_draft, load_target
from harness.run.sizes import sizes_of
from harness.store.config import RunConfig
from strategies.drafters import texts
from strategies.greedy import Greedy
from strategies.kv_prediction import KvPrediction
from strategies.parts.kv_map import INPUTS, OF_A_KIND, RIDGE, KvMap, fitted, read

HELD_OUT = 5  # one of the user's texts in so many is not fitted to


class First(NamedTuple):
    """Of the first token: the KL divergence from the target in nats, and the share of equal likeliest tokens."""

    divergence: float
    same: float


@torch.inference_mode()
def compared(maps: KvMap, target: Engine, draft: Engine, prompts: Sequence[Sequence[int]]) -> tuple[First, First]:
    """Return how the first token after prompts of at least two tokens differs, with predicted caches and by the draft.
    """
    rows = list[list[float]]()
    for prompt in prompts:
        wanted = _law(target, prompt)
        contents = maps.predict(target, draft, read(draft, prompt[:-1]))
        for found in (_law(target, prompt, contents), _law(draft, prompt)):
            rows.append([float((wanted.exp() * (wanted - found)).sum()), float(wanted.argmax() == found.argmax())])
    means = torch.tensor(rows).view(-1, 2, 2).mean(0).tolist()
    return First(*means[0]), First(*means[1])


def _law(engine: Engine, prompt: Sequence[int], contents: Sequence[tuple[Tensor, Tensor]] = ()) -> Tensor:
    session = Session(engine)
    if contents:
        session.fill(prompt[:-1], contents)
    session.follow(prompt)
    logits = session.read().logits[0]
    session.close()
    return logits.log_softmax(-1).cpu()


def operations(maps: KvMap, target: Engine, draft: Engine, tokens: int) -> tuple[float, float]:
    """Return the operations before the first token after a prompt of `tokens`, of a prefill and of a prediction.

    Raises `UserError` for models whose sizes are unknown.
    """
    large, small = sizes_of(target.model), sizes_of(draft.model)
    if large is None or small is None:
        raise UserError("the layers of these models differ, so that their operations cannot be counted.")
    own, drafted = (sizes.layers * (sizes.attention + sizes.mlp) for sizes in (large, small))
    mapped = (tokens - 1) * (drafted + maps.maps.numel())
    return 2 * (tokens * own + large.head), 2 * (mapped + own + large.head)


def main() -> None:
    """Fit, write, and print."""
    parser = argparse.ArgumentParser(description="Fit the maps of the strategy kv_prediction.")
    parser.add_argument("--model", default=nano.NAMES[0], help="nano, a folder or a hub id")
    parser.add_argument("--draft", help="the model that reads prompts; nano has one")
    parser.add_argument("--texts", type=Path, help="a text or .jsonl file, or a folder; default: the embedded corpus")
    parser.add_argument("--count", type=int, default=OF_A_KIND, help="texts of each kind of the embedded corpus")
    parser.add_argument("--inputs", choices=INPUTS, default=INPUTS[0], help="what a map reads of the draft model")
    parser.add_argument("--ridge", type=float, default=RIDGE, help="penalty, a share of the inputs' mean variance")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    options = parser.parse_args()
    if options.count < 1 or not options.ridge >= 0:
        raise UserError("--count must be at least 1, and --ridge at least 0.")
    config = RunConfig(model=options.model, draft=options.draft, device="cpu")
    target = load_target(config)
    draft = load_draft(config, target, [KvPrediction(over=Greedy())])
    if draft is None:
        raise UserError(f"Which model reads the prompts of '{target.name}'? Give one with --draft.")
    if options.texts:
        given = texts.given(options.texts)
        fit, held = [one for i, one in enumerate(given) if i % HELD_OUT], given[::HELD_OUT]
    else:
        fit, held = texts.corpus(count=options.count, split="dev"), texts.corpus(count=10, split="test")
    maps = fitted(target.engine, draft.engine, target.tokenizer(fit).input_ids, options.inputs, options.ridge)
    maps.save(options.out, target.engine, draft.engine)
    limit = 2 * min(target.engine.max_len, draft.engine.max_len)
    prompts = [ids[:min(limit, len(ids)) // 2] for ids in target.tokenizer(held).input_ids if len(ids) > 3]
    if not prompts:
        raise UserError("no text has four tokens; use longer texts.")
    print(f"{options.out}: {maps.maps.numel():,} numbers fitted to {len(fit)} texts")
    for name, one in zip(("predicted", "draft alone"), compared(maps, target.engine, draft.engine, prompts),
                         strict=True):
        print(f"{name}: KL of the first token {one.divergence:.3f} nats, same likeliest token {one.same:.2f}")
    tokens = round(sum(map(len, prompts)) / len(prompts))
    whole, short = operations(maps, target.engine, draft.engine, tokens)
    print(f"before the first token after {tokens} tokens: {whole / 1e6:.0f} MFLOP by a prefill, {short / 1e6:.0f} here")


if __name__ == "__main__":
    program(main)
