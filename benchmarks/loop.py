"""What the harness costs: its decoding against a bare loop and against `generate`, side by side on one machine.

`python -m benchmarks.loop [--new 96] [--rounds 7] [--json FILE]`: for each prompt every contender runs once a round, in
a rotating order; times are medians in ms per token, ratios are medians over the rounds of the ratio to the bare loop.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from harness.backends.transformers import Model, load
from harness.decoding.draw import PhiloxStream
from harness.decoding.session import Session
from harness.nano.corpus import problems
from harness.strategy import Request, Strategy
from strategies.beam import Beam
from strategies.greedy import Greedy
from strategies.speculative import Speculative

Contender = Callable[[list[int]], list[int]]


def ours(strategy: Strategy, target: Model, draft: Model, new: int) -> Contender:
    """A strategy of the harness, without EOS, so that every contender writes `new` tokens."""
    def go(prompt: list[int]) -> list[int]:
        session = Session(target.engine, Session(draft.engine) if "draft" in strategy.needs else None)
        tokens: list[int] = []
        for block in strategy.generate(session, Request(tuple(prompt), new, PhiloxStream(0))):
            tokens += block
            if len(tokens) >= new:
                break
        session.close()
        return tokens[:new]
    return go


def bare(target: Model, new: int) -> Contender:
    """The shortest greedy loop over the model's own forward and cache."""
    from transformers import DynamicCache

    def go(prompt: list[int]) -> list[int]:
        cache, feed, tokens = DynamicCache(), torch.tensor([prompt]), list[int]()
        while len(tokens) < new:
            logits = target.engine.model(input_ids=feed, past_key_values=cache, logits_to_keep=1).logits
            tokens.append(int(logits[0, -1].argmax()))
            feed = torch.tensor([tokens[-1:]])
        return tokens
    return go


def generated(target: Model, new: int, **options: Any) -> Contender:
    """transformers' own `generate`, without EOS."""
    def go(prompt: list[int]) -> list[int]:
        ids = torch.tensor([prompt])
        out = target.engine.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new,
                                           min_new_tokens=new, do_sample=False, pad_token_id=0, **options)
        found: list[int] = out[0, len(prompt):].tolist()
        return found
    return go


@torch.inference_mode()
def measure(contenders: dict[str, Contender], prompts: list[list[int]], new: int, rounds: int) -> list[dict[str, Any]]:
    """One row a contender: median ms per token and median ratio to the first."""
    for contender in contenders.values():
        contender(prompts[0])
    names, times = list(contenders), {name: list[float]() for name in contenders}
    for turn in range(rounds):
        for name in names[turn % len(names):] + names[:turn % len(names)]:
            start = time.perf_counter()
            for prompt in prompts:
                contenders[name](prompt)
            times[name].append((time.perf_counter() - start) * 1000 / (len(prompts) * new))
    return [{"contender": name, "ms_per_token": statistics.median(times[name]),
             "ratio": statistics.median(a / b for a, b in zip(times[name], times[names[0]], strict=True))}
            for name in names]


def main() -> None:
    """Print the table and, with `--json`, write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--new", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    target, draft = load("nano"), load("nano-draft")
    prompts = [target.tokenizer(p.turns[0])["input_ids"] for p in problems("math", "dev", 3)]
    new = options.new
    rows = measure({
        "bare greedy loop": bare(target, new), "greedy": ours(Greedy(), target, draft, new),
        "generate": generated(target, new), "speculative": ours(Speculative(), target, draft, new),
        "generate, assisted": generated(target, new, assistant_model=draft.engine.model, num_assistant_tokens=4,
                                        num_assistant_tokens_schedule="constant", assistant_confidence_threshold=0.0),
        "beam of 4": ours(Beam(width=4), target, draft, new), "generate, 4 beams": generated(target, new, num_beams=4),
    }, prompts, new, options.rounds)
    for row in rows:
        print(f"{row['contender']:20} {row['ms_per_token']:8.2f} ms/token {row['ratio']:7.2f} × the bare loop")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
