"""Time the engine against hand-written loops, transformers' `generate` and lm-eval.

`python -m benchmarks.engine [--rounds 7] [--compile] [--json FILE]`. Every comparison is interleaved; times are
medians, ratios medians over the rounds with their quartiles. docs/performance.md explains the rows.
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers.utils import logging

from benchmarks.contenders import assisted, bare, bare_batch, generated, library, ours
from benchmarks.timing import Row, compare
from benchmarks.whole import whole_task
from harness.engine.kept_prefix import pin
from harness.models.loading import Model, load
from harness.nano.corpus import problems
from harness.store.environment import environment
from harness.verify.forwards import forward_seconds

NEW = 96
WIDTHS = (1, 2, 3, 4, 5, 6, 8, 11, 16, 32, 64, 128)
CONCURRENCY = (1, 2, 4, 8, 16, 32, 64)


def prompts(model: Model, kind: str, count: int) -> list[list[int]]:
    """Return the token ids of the first `count` held-out prompts of a kind of nano's corpus."""
    return [model.tokenizer(p.turns[0])["input_ids"] for p in problems(kind, "dev", count)]


def single_sequence(target: Model, draft: Model, rounds: int, compiled: Model | None) -> list[Row]:
    """Compare greedy decoding at batch size 1."""
    sequences = prompts(target, "math", 6)
    plain = library("nano")
    contenders = {"bare loop": bare(sequences, plain, NEW),
                  "greedy": ours("greedy", sequences, target, draft, NEW),
                  "generate": generated(sequences, plain, NEW)}
    if compiled:
        contenders["greedy, compiled"] = ours("greedy", sequences, compiled, draft, NEW)
    return compare("one sequence", contenders, rounds)


def against_generate(target: Model, draft: Model, rounds: int) -> Iterator[Row]:
    """Compare with the same methods in transformers: draft model, prompt lookup, beams."""
    math, edit = prompts(target, "math", 6), prompts(target, "edit", 6)
    plain, assistant = library("nano"), library("nano-draft")
    yield from compare("draft model, γ = 4", {
        "generate, assisted": assisted(math, plain, assistant, NEW, 4),
        "speculative": ours("speculative:gamma=4", math, target, draft, NEW)}, rounds)
    yield from compare("prompt lookup, 10 tokens, edit", {
        "generate, lookup": generated(edit, plain, NEW, prompt_lookup_num_tokens=10, max_matching_ngram_size=3),
        "prompt_lookup": ours("prompt_lookup:length=10,max_ngram=3", edit, target, draft, NEW)}, rounds)
    yield from compare("4 beams", {
        "generate, beams": generated(math, plain, NEW, num_beams=4),
        "beam": ours("beam:width=4", math, target, draft, NEW)}, rounds)


def batched(target: Model, draft: Model, rounds: int) -> list[Row]:
    """Measure the overhead of scheduling on a batch of 32 sequences."""
    sequences = [(prompt * 2)[:32] for prompt in prompts(target, "math", 32)]
    return compare("32 sequences of one length", {
        "bare batched loop": bare_batch(sequences, target, NEW),
        "greedy": ours("greedy", sequences, target, draft, NEW, concurrency=32)}, rounds)


def throughput(target: Model, draft: Model, rounds: int) -> Iterator[Row]:
    """Compare batch sizes with batch size 1."""
    sequences = prompts(target, "math", 64)
    for spec in ("greedy", "speculative", "beam", "contrastive_search"):
        yield from compare(f"{spec}, batch size", {
            str(n): ours(spec, sequences[:max(16, n)], target, draft, NEW // 3, concurrency=n)
            for n in CONCURRENCY}, rounds)


def widths(model: Model, rounds: int) -> list[dict[str, float]]:
    """Measure v(M): the time of a forward over M new tokens after 128, relative to one token, in `rounds` rounds."""
    (times,) = forward_seconds([model.engine], [5 + i % 1000 for i in range(128)], WIDTHS, rounds)
    return [{"tokens": width, "ms": 1000 * statistics.median(taken),
             "v": statistics.median(a / b for a, b in zip(taken, times[1], strict=True))}
            for width, taken in times.items()]


def prefix(target: Model, draft: Model, rounds: int) -> Iterator[Row]:
    """Compare prefilling eight worked examples before every question with prefilling them once."""
    shots = [token for problem in problems("math", "train", 8)
             for token in target.tokenizer(problem.turns[0] + problem.answers[0] + "\n\n")["input_ids"]]
    sequences = [shots + prompt for prompt in prompts(target, "math", 16)]

    def shared(n: int) -> Any:
        for model in (target, draft):
            pin(model.engine, shots)
        try:
            return ours("greedy", sequences, target, draft, NEW, concurrency=n)()
        finally:
            for model in (target, draft):
                model.engine.unpin()
    for n in (1, 16):
        yield from compare(f"{len(shots)} tokens in common, batch size {n}", {
            "prefilled for each": ours("greedy", sequences, target, draft, NEW, concurrency=n),
            "prefilled once": partial(shared, n)}, max(2, rounds // 2))


def show(rows: list[Row], console: Console) -> None:
    """Print the comparisons as one table."""
    table = Table("comparison", "contender", "tok/s", "time ÷ first's", "quartiles", "same tokens", box=None)
    for before, row in zip([None, *rows], rows, strict=False):
        new = before is None or before.section != row.section
        table.add_row(row.section if new else "", row.contender, f"{row.tokens_per_second:,.0f}", f"{row.ratio:.2f}",
                      f"[{row.low:.2f}, {row.high:.2f}]".replace("[", r"\["), f"{row.same} of {row.texts}")
    console.print(table)


@torch.inference_mode()
def main() -> None:
    """Run everything, print the tables and, with `--json`, write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--compile", action="store_true", help="also time the compiled forward")
    parser.add_argument("--json", type=Path)
    options, console = parser.parse_args(), Console(width=120)
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    target, draft = load("nano"), load("nano-draft")
    rows = single_sequence(target, draft, 3 * options.rounds, load("nano", compiled=True) if options.compile else None)
    rows += against_generate(target, draft, options.rounds)
    rows += batched(target, draft, options.rounds)
    rows += prefix(target, draft, options.rounds)
    rows += throughput(target, draft, max(2, options.rounds // 2))
    show(rows, console)
    v = {model.name: widths(model, 20 * options.rounds) for model in (target, draft)}
    for name, measured in v.items():
        console.print(f"v(M) of {name}:", ", ".join(f"{w['tokens']}: {w['v']:.2f}" for w in measured))
    task = whole_task(max(2, options.rounds // 2), options.compile, console)
    if options.json:
        data = {"environment": environment("cpu", 1), "rows": [row.data() for row in rows], "v": v, "task": task}
        options.json.write_text(json.dumps(data, indent=2) + "\n")


if __name__ == "__main__":
    main()
