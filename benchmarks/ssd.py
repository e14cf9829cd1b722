"""How often Saguaro foresees the outcome of a verification, and what that would be worth with two devices.

`python -m benchmarks.ssd [--gamma 4] [--fan 1 3 8] [--cost 0.1] [--prompts 6]`, on nano and nano-draft at temperatures
0 and 0.8. Hits are counted by the number of accepted tokens. The last two columns are a model, not a measurement:
tokens per time of a target forward of two devices and of plain speculative decoding, where a forward of the draft model
takes `--cost` target forwards, however many tokens it computes.
"""

import argparse

import torch
from rich.console import Console
from rich.table import Table

from harness.backends.transformers import open_session
from harness.decoding.accept import at
from harness.decoding.loop import draft_and_verify
from harness.engine.random_stream import PhiloxStream
from harness.models.loading import Model, load
from harness.nano.corpus import problems
from harness.plugins.strategy import Request
from strategies.ssd import Ssd

NEW = 64


def modelled(tokens: float, hits: float, draft: float, branches: float = 0.0) -> float:
    """Return tokens per target forward's time, of a step with `tokens` tokens and a share of `hits` (2603.03251).

    `draft` is the time of a draft, `branches` that of the drafts made ahead, both in target forwards.
    """
    return tokens / (max(1.0, branches) + (1 - hits) * draft)


def counted(strategy: Ssd, prompts: list[list[int]], target: Model, draft: Model) -> tuple[list[int], list[int], float]:
    """Return the hits and the outcomes by accepted tokens, and tokens per step."""
    hits, outcomes, tokens, steps = [0] * (strategy.gamma + 1), [0] * (strategy.gamma + 1), 0, 0
    for number, prompt in enumerate(prompts):
        session = open_session(strategy, [target.engine, draft.engine])
        request = Request(tuple(prompt), NEW, PhiloxStream("ssd", number))
        drafter, written = strategy.drafter(session, request), 0
        for step in draft_and_verify(session, drafter, at(strategy.temperature, strategy.rule()), request,
                                     strategy.logit_warp()):
            written, steps = written + len(step), steps + 1
            if written >= NEW:
                break
        session.close()
        tokens += written
        hits = [a + b for a, b in zip(hits, drafter.hits, strict=True)]
        outcomes = [a + b for a, b in zip(outcomes, drafter.outcomes, strict=True)]
    return hits, outcomes, (tokens - len(prompts)) / (steps - len(prompts))  # the prefill is no step


@torch.inference_mode()
def main() -> None:
    """Count for each fan, factor and temperature, and print a row for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gamma", type=int, default=4)
    parser.add_argument("--fan", type=int, nargs="+", default=[1, 3, 8])
    parser.add_argument("--cost", type=float, default=0.1)
    parser.add_argument("--prompts", type=int, default=6)
    options = parser.parse_args()
    if options.prompts < 1:
        parser.error("--prompts must be at least 1")
    target, draft = load("nano"), load("nano-draft")
    prompts = [target.tokenizer(problem.turns[0])["input_ids"] for problem in problems("math", "dev", options.prompts)]
    table = Table("temperature", "fan", "c", "hits by accepted tokens", "hits", "tokens/step", "two devices",
                  "speculative", box=None)
    for temperature, fan, c in [(0.0, fan, 1.0) for fan in options.fan] + [
            (0.8, fan, c) for fan in options.fan for c in (1.0, 0.5)]:
        strategy = Ssd(gamma=options.gamma, fan=fan, c=c, temperature=temperature)
        hits, outcomes, tokens = counted(strategy, prompts, target, draft)
        share, time = sum(hits) / max(1, sum(outcomes)), options.gamma * options.cost
        table.add_row(f"{temperature:g}", str(fan), f"{c:g}", " ".join(f"{hit}/{count}" for hit, count in zip(
            hits, outcomes, strict=True)), f"{share:.0%}", f"{tokens:.2f}",
            f"{modelled(tokens, share, time, time + options.cost):.2f}", f"{tokens / (1 + time):.2f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
