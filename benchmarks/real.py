"""Time a real model: v(M), and greedy, beam search and prompt lookup against `generate` of transformers.

`python -m benchmarks.real MODEL [--dtype float32] [--threads 1] [--rounds 3] [--new 48]`, where MODEL is a folder or a
hub id. Contenders are interleaved; times are medians, ratios medians over the rounds with their quartiles.
"""

import argparse
from collections.abc import Iterator

import torch
from rich.console import Console
from transformers.utils import logging

from benchmarks.contenders import generated, library, ours
from benchmarks.engine import show, widths
from benchmarks.timing import Row, compare
from harness.models.loading import load
from harness.models.prompts import encode

CODE = """def mean(numbers):
    total = 0
    for number in numbers:
        total += number
    return total / len(numbers)"""
PROMPTS = ("A farmer has 17 sheep and buys 5 more each week. How many has he after 6 weeks? Think step by step.",
           f"Rename the argument `numbers` to `values` and repeat the whole function:\n\n{CODE}")


def contenders(name: str, dtype: str, threads: int, rounds: int, new: int, console: Console) -> Iterator[Row]:
    """Print what was chosen at load and v(M), then compare every method with the same one in transformers."""
    model, plain = load(name, dtype=dtype, threads=threads), library(name, dtype)
    for shape, choice in model.products.items():
        console.print(f"{shape:>16}  {choice}")
    curve = widths(model, 5 * rounds)
    console.print(f"one token: {curve[0]['ms']:.1f} ms; v(M):",
                  ", ".join(f"{int(w['tokens'])}: {w['v']:.2f}" for w in curve))
    prompts = [encode(model, [{"role": "user", "content": text}]) for text in PROMPTS]
    for method, spec, options in (("greedy", "greedy", {}), ("4 beams", "beam:width=4", {"num_beams": 4}),
                                  ("prompt lookup", "prompt_lookup:length=10,max_ngram=3",
                                   {"prompt_lookup_num_tokens": 10, "max_matching_ngram_size": 3})):
        yield from compare(method, {"generate": generated(prompts, plain, new, **options),
                                    spec: ours(spec, prompts, model, model, new)}, rounds)


@torch.inference_mode()
def main() -> None:
    """Measure one model and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new", type=int, default=48, help="tokens per answer")
    options, console = parser.parse_args(), Console(width=120)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    show(list(contenders(options.model, options.dtype, options.threads, options.rounds, options.new, console)), console)


if __name__ == "__main__":
    main()
