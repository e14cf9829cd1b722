"""Soak test of mixed samples: no cache row may leak, and memory must stay flat.

`python -m benchmarks.soak [--samples 2000] [--concurrency 16]`: samples of all strategies, with prompts and lengths at
random and one in ten failing half-way; prints the open rows, the cache and the process's memory after each tenth, and
exits 1 when a row is left or memory grew by more than a tenth after the first half.
"""

import argparse
import gc
import sys
from collections.abc import Callable
from functools import partial
from random import Random

import psutil
import torch

from harness.backends.transformers import open_session
from harness.engine.batching import run_batched
from harness.engine.cache import CacheFull
from harness.engine.random_stream import PhiloxStream
from harness.models.loading import Model, load
from harness.nano.corpus import problems
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, Strategy


def sample(target: Model, draft: Model, strategy: Strategy, prompt: list[int], new: int, fails: bool) -> str:
    """Decode `new` tokens; with `fails` the forward fails half-way, as with a faulty strategy."""
    session, count = open_session(strategy, [target.engine, draft.engine]), 0
    try:
        for block in strategy.generate(session, Request(tuple(prompt), new, PhiloxStream(0, prompt, new))):
            count += len(block)
            if count >= new:
                return "done"
            if fails and count >= new // 2:
                session.follow([*prompt, target.vocab + 1])  # no such token: the forward itself fails
                session.read()
        return "done"
    except IndexError:
        return "failed"
    finally:
        session.close()


@torch.inference_mode()
def main() -> None:
    """Run the soak and print a line after each tenth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--concurrency", type=int, default=16)
    options = parser.parse_args()
    torch.set_num_threads(1)
    random, target, draft = Random(1), load("nano"), load("nano-draft")
    kinds = [STRATEGIES.build(name) for name in sorted(STRATEGIES.built_in())]
    texts = [target.tokenizer(p.turns[0])["input_ids"] for kind in ("math", "story", "edit")
             for p in problems(kind, "dev", 100)]
    engines, memory = [target.engine, draft.engine], list[float]()
    for tenth in range(10):
        jobs: list[Callable[[], str]] = [
            partial(sample, target, draft, random.choice(kinds), random.choice(texts), random.randrange(2, 60),
                    random.random() < 0.1) for _ in range(options.samples // 10)]
        results: list[str | CacheFull] = run_batched(engines, jobs, options.concurrency)
        gc.collect()
        memory.append(psutil.Process().memory_info().rss / 1e6)
        rows, caches = [e.open_rows for e in engines], [(e.cache.rows, e.cache.slots) for e in engines]
        print(f"{(tenth + 1) * len(jobs)} samples, {results.count('failed')} of the last {len(results)} failed, "
              f"open rows {rows}, cache {caches}, {memory[-1]:.0f} MB", flush=True)
    leaked = any(engine.open_rows for engine in engines)
    grown = memory[-1] > 1.1 * memory[4]
    print("rows leaked" if leaked else "no row leaked", "memory grew" if grown else "memory is flat", sep=", ")
    sys.exit(leaked or grown)


if __name__ == "__main__":
    main()
