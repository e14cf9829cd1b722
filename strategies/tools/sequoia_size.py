"""Choose the tree of `sequoia` for two models and a machine by measuring acceptance rates and forward times.

`python -m strategies.tools.sequoia_size --model nano --draft nano-draft` measures both and prints the strategy to
run, its expected tokens a step, and the speed-up over plain decoding. The target continues the prompts of the embedded
tasks (`--task` names others); with `--texts`, a text file or folder, the texts themselves are used.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch

from harness.engine.engine import Engine
from harness.errors import UserError
from harness.run.plan import make
from harness.store.config import RunConfig
from harness.verify.forwards import forward_seconds
from strategies.drafters.sequoia_plan import fitted
from strategies.drafters.sequoia_rates import chances, longest, prompted, ranks, read_texts
from strategies.sequoia import Sequoia

SIZES = (1, 2, 4, 8, 16, 32, 64, 128)  # tokens of the forwards that are timed
ROUNDS = 31


def times(engines: Sequence[Engine], text: Sequence[int], sizes: Sequence[int]) -> list[dict[int, float]]:
    """Return for each engine the median seconds of a forward by its number of tokens at the end of `text`, interleaved.

    The times are made monotonic: a forward over fewer tokens never counts as slower than one over more.
    """
    taken = forward_seconds(engines, text[:-1], sizes, ROUNDS, clock=time.perf_counter)
    return [{m: min(median(seconds[size]) for size in sizes if size >= m) for m in sizes} for seconds in taken]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, choose and print; the exit code is 2 when the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m strategies.tools.sequoia_size",
                                     description="Choose the tree of the strategy sequoia for two models.")
    parser.add_argument("--model", default="nano", help="the target: nano, a folder or a hub id")
    parser.add_argument("--draft", help="the draft model; nano-draft for nano")
    parser.add_argument("--texts", type=Path, help="a text file or a folder of them; default: prompts of tasks")
    parser.add_argument("--task", action="append", default=[], help="task, repeatable; default: the embedded ones")
    parser.add_argument("--limit", type=int, default=8, help="examples of a task, or pieces of text")
    parser.add_argument("--new", type=int, default=64, help="tokens that the target generates after a prompt")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--p", type=float, default=1.0, help="mass of the nucleus")
    parser.add_argument("--ranks", type=int, default=8, help="siblings per node")
    parser.add_argument("--depth", type=int, default=16, help="maximum levels")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, …")
    try:
        with torch.inference_mode():
            print(*_report(parser.parse_args(arguments)), sep="\n")
    except (UserError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def _report(o: argparse.Namespace) -> list[str]:
    for name, low, high in (("new", 1, 1 << 20), ("ranks", 1, 64), ("depth", 1, 64)):
        if not low <= getattr(o, name) <= high:
            raise UserError(f"--{name} must be from {low} to {high}, not {getattr(o, name)}.")
    if o.texts and not o.texts.exists():
        raise UserError(f"There is no file or folder {o.texts}.")
    strategy = Sequoia(temperature=o.temperature, p=o.p)
    made = make(RunConfig(model=o.model, draft=o.draft, strategies=(strategy.spec(),), tasks=tuple(o.task),
                          limit=o.limit, dtype=o.dtype, device=o.device), "")
    if made.draft is None:
        raise UserError(f"There is no draft model for {o.model}: give one with --draft.")
    engines = made.target.engine, made.draft.engine
    texts = read_texts(o.texts, made, o.limit) if o.texts else prompted(made, strategy, o.new)
    counts, positions = ranks(*engines, texts, strategy, o.ranks)
    rates = chances(counts, positions)
    text = max((tokens for tokens, _ in texts), key=len)[:longest(made) // 2]
    target, draft = times(engines, text, [m for m in SIZES if len(text) + m <= longest(made)])
    best = fitted(rates, draft, target, o.depth)
    knobs = {"nodes": best.nodes, "depth": best.depth, "rates": "-".join(f"{rate:.4f}".rstrip("0") for rate in rates)}
    sampling = {"temperature": o.temperature, "p": o.p} if o.temperature else {}
    faster = best.tokens * target[1] / best.seconds
    return [f"sibling: share accepted at {positions} positions of {len(texts)} texts",
            *(f"{i + 1:7}: {count / positions:.4f}" for i, count in enumerate(counts)),
            "tokens: milliseconds of a draft forward and of a target forward",
            *(f"{m:6}: {1e3 * draft[m]:8.2f} {1e3 * target[m]:8.2f}" for m in target),
            f"{best.tokens:.2f} tokens a step expected, {faster:.2f} times as fast as plain decoding"
            + ("" if faster > 1 else ": do not draft with these models"),
            "sequoia:" + ",".join(f"{key}={value}" for key, value in (knobs | sampling).items())]


if __name__ == "__main__":
    sys.exit(main())
