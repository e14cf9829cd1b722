"""The tree of `sequoia` for two models and a machine: how often siblings are accepted, what forwards take, what pays.

`python -m strategies.tools.sequoia_size --model nano --draft nano-draft` measures both and prints the strategy to
run, what it expects to commit a step, and the speed-up over plain decoding. The target continues the prompts of the
embedded tasks (`--task` names others), or what stands in the text file or folder `--texts` is read as it is.
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
    """For each engine, median seconds of a forward by the tokens it reads at the end of `text`, taken in turn.

    One over more tokens that took less time shows what was noise, so its time counts for those over fewer as well.
    """
    taken = forward_seconds(engines, text[:-1], sizes, ROUNDS, clock=time.perf_counter)
    return [{m: min(median(seconds[more]) for more in sizes if more >= m) for m in sizes} for seconds in taken]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, choose and print; the exit code is 2 when the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m strategies.tools.sequoia_size",
                                     description="Choose the tree of the strategy sequoia for two models.")
    parser.add_argument("--model", default="nano", help="the target: nano, a folder or a hub id")
    parser.add_argument("--draft", help="the draft model; nano-draft for nano")
    parser.add_argument("--texts", type=Path, help="a text file or a folder of them; the prompts of tasks without")
    parser.add_argument("--task", action="append", default=[], help="again for more; the embedded ones without")
    parser.add_argument("--limit", type=int, default=8, help="examples of a task, or pieces of text")
    parser.add_argument("--new", type=int, default=64, help="tokens that the target writes after a prompt")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy")
    parser.add_argument("--p", type=float, default=1.0, help="mass of the nucleus")
    parser.add_argument("--ranks", type=int, default=8, help="siblings that are tried")
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
    counts, places = ranks(*engines, texts, strategy, o.ranks)
    rates = chances(counts, places)
    text = max((tokens for tokens, _ in texts), key=len)[:longest(made) // 2]
    target, draft = times(engines, text, [m for m in SIZES if len(text) + m <= longest(made)])
    best = fitted(rates, draft, target, o.depth)
    knobs = {"nodes": best.nodes, "depth": best.depth, "rates": "-".join(f"{rate:.4f}".rstrip("0") for rate in rates)}
    law = {"temperature": o.temperature, "p": o.p} if o.temperature else {}
    faster = best.tokens * target[1] / best.seconds
    return [f"sibling: accepted at {places} places of {len(texts)} texts",
            *(f"{i + 1:7}: {count / places:.4f}" for i, count in enumerate(counts)),
            "tokens: milliseconds of a forward of the draft, of the target",
            *(f"{m:6}: {1e3 * draft[m]:8.2f} {1e3 * target[m]:8.2f}" for m in target),
            f"{best.tokens:.2f} tokens a step expected, {faster:.2f} times as fast as plain decoding"
            + ("" if faster > 1 else ": do not draft with these models"),
            "sequoia:" + ",".join(f"{key}={value}" for key, value in (knobs | law).items())]


if __name__ == "__main__":
    sys.exit(main())
