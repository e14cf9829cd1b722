"""What a bounded KV cache costs on long texts: time, memory and perplexity, with a plot.

    python -m benchmarks.stream [-m MODEL] [--text FILE …] [--window 256] [--tokens 20000] [--blocks 2048] [--plot FILE]

First, `streaming` writes `--tokens` tokens: for each tenth of them the median time of a token, then the slots of its
row and the tokens that were read. Then the text (stories of nano's corpus by default) is read by each method in pieces
of `PIECE` tokens, and the perplexity of each block is printed: with all keys (`dense`), with a window, and with a
window and four sinks (`streaming`). Policies decide for each token, however many are read together.
"""

import argparse
import math
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from itertools import islice, pairwise
from pathlib import Path
from statistics import median

import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from transformers.utils.logging import set_verbosity_error

from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import UserError
from harness.models.loading import Model, load
from harness.nano.corpus import problems
from harness.plugins.data import read_text
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request
from strategies.streaming import Ends

PIECE, BLOCK, SINKS = 128, 256, 4


def written(model: Model, prompt: Sequence[int], window: int, count: int) -> tuple[list[float], Session]:
    """Return the time of each token that `streaming` writes after a prompt, in seconds, and its session."""
    session, times = Session(model.engine), [time.perf_counter()]
    strategy = STRATEGIES.build(f"temperature+streaming:sinks={SINKS},window={window}")
    request = Request(tuple(prompt), count, PhiloxStream(0))
    for _ in islice(strategy.generate(session, request), count):
        times.append(time.perf_counter())
    return [after - before for before, after in pairwise(times)], session


@torch.inference_mode()
def perplexities(model: Model, tokens: Sequence[int], policy: Ends | None) -> list[float]:
    """Return the perplexity of each block of `BLOCK` tokens, read with a policy or with all keys."""
    session, losses = Session(model.engine), list[float]()
    with session.with_cache_policy(policy) if policy else nullcontext():
        session.follow(tokens[:1])
        session.read()
        for start in range(1, len(tokens), PIECE):
            piece = tokens[start:start + PIECE]
            logits = session.read(TokenTree.chain(piece)).logits[:-1]
            losses += (-logits.log_softmax(-1)[range(len(piece)), piece]).tolist()
            session.keep(range(len(piece)))
    session.close()
    blocks = [losses[start:start + BLOCK] for start in range(0, len(losses), BLOCK)]
    return [math.exp(sum(block) / len(block)) for block in blocks]


def stories(model: Model) -> list[int]:
    """Return stories of the corpus in a row, prompts and answers joined by newlines."""
    found = problems("story", "dev", 400)
    return list(model.tokenizer("\n".join(f"{one.turns[0]}{one.answers[0]}" for one in found))["input_ids"])


def plotted(path: Path, found: dict[str, list[float]], name: str) -> None:
    """Draw the perplexity of each method by block."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for label, values in found.items():
        axes.plot([BLOCK * (number + 1) for number in range(len(values))], values, marker=".", label=label)
    axes.set(xlabel="tokens read", ylabel=f"perplexity of {BLOCK} tokens", title=name, yscale="log")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Parse the command line, measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-m", "--model", default="nano")
    parser.add_argument("--text", type=Path, nargs="*", help="files to read one after the other [nano's stories]")
    parser.add_argument("--window", type=int, default=256, help="tokens kept [256]")
    parser.add_argument("--tokens", type=int, default=20000, help="tokens to write, 0 for none [20000]")
    parser.add_argument("--blocks", type=int, default=2048, help="tokens of the text to read [2048]")
    parser.add_argument("--plot", type=Path, help="file for the plot of perplexities")
    given = parser.parse_args()
    torch.set_num_threads(1)
    set_verbosity_error()  # the text is longer than the context on purpose
    try:
        model, texts = load(given.model), "\n".join(map(read_text, map(str, given.text or ())))
    except UserError as error:
        sys.exit(str(error))
    console = Console(width=100)
    tokens = stories(model) if given.text is None else list(model.tokenizer(texts)["input_ids"])
    if len(tokens) < 2:
        sys.exit("The text is empty.")
    if given.tokens:
        times, session = written(model, tokens[:64], given.window, given.tokens)
        tenth = -(-len(times) // 10)
        parts = [median(times[start:start + tenth]) * 1e3 for start in range(0, len(times), tenth)]
        console.print("ms a token by tenths:", " ".join(f"{part:.1f}" for part in parts))
        console.print(f"{len(times)} tokens written, {session.work.positions} read, {session.row.end} slots in use, "
                      f"{model.engine.cache.slots} allocated")
        session.close()
    tokens = tokens[:given.blocks + 1]
    methods = {"dense": None, f"window of {given.window}": Ends(0, given.window, False),
               f"streaming: {SINKS} sinks and {given.window - SINKS}": Ends(SINKS, given.window - SINKS, False)}
    found = {label: perplexities(model, tokens, policy) for label, policy in methods.items()}
    table = Table("tokens read", *found, box=None)
    for number, row in enumerate(zip(*found.values(), strict=True)):
        table.add_row(str(min(len(tokens) - 1, BLOCK * (number + 1))), *(f"{value:.2f}" for value in row))
    console.print(table)
    if given.plot:
        plotted(given.plot, found, given.model)


if __name__ == "__main__":
    main()
