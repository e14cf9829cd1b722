"""Time PEARL with one worker, with two, and plain speculative decoding.

`python -m benchmarks.pearl [--rounds 9] [--gamma 4] [--threads 1]`, interleaved, on nano and nano-draft: time per token
against one worker, the median over the rounds with its quartiles. `--threads` is the number of torch threads a worker.
"""

import argparse
import os

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.contenders import ours
from benchmarks.timing import compare
from harness.models.loading import load
from harness.nano.corpus import problems

PROMPTS, NEW = 6, 64


@torch.inference_mode()
def main() -> None:
    """Time the three and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--gamma", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    target, draft = load("nano"), load("nano-draft")
    prompts = [target.tokenizer(problem.turns[0])["input_ids"] for problem in problems("math", "dev", PROMPTS)]
    names = [f"{name}gamma={options.gamma}" for name in ("pearl:workers=1,", "pearl:workers=2,", "speculative:")]
    rows = compare("pearl", {name: ours(name, prompts, target, draft, NEW) for name in names}, options.rounds)
    table = Table("contender", "tokens/s", "ratio", "quartiles", "same sequences", box=None,
                  title=f"{os.cpu_count()} cores, {options.threads} torch threads a worker")
    for row in rows:
        table.add_row(row.contender, f"{row.tokens_per_second:.0f}", f"{row.ratio:.2f}",
                      f"{row.low:.2f} … {row.high:.2f}", f"{row.same} of {row.texts}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
