"""Time greedy decoding of all of nano_math: `decodebench run` against lm-eval's `hf` backend, each at its best setting.

`python -m benchmarks.whole [--rounds 3] [--compile]`. A setting is a number of torch threads and a batch size;
every setting of both is timed in every round. Scoring is excluded on both sides.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from rich.console import Console
from transformers.utils import logging

from benchmarks.contenders import library, lm_eval, lm_eval_answers
from benchmarks.timing import quartiles
from harness.run.plan import Plan, make
from harness.run.runner import Runner
from harness.store.config import RunConfig

OURS = (64, 128, 200)
THEIRS = (16, 32, 64)
Timed = Callable[[], tuple[float, list[str]]]
"""Answers all questions; returns the seconds and the answers."""


def whole_task(rounds: int, compiled: bool, console: Console) -> list[dict[str, Any]]:
    """Time both, print and return the results; none when lm-eval is not installed."""
    plan = make(RunConfig(strategies=("greedy",), tasks=("nano_math",), threads=1, device="cpu", compile=compiled),
                "benchmark")
    try:
        theirs = _theirs(plan)
    except ImportError:
        console.print("lm-eval is not installed, so it was not compared: pip install -e '.[bench]'")
        return []
    makers: dict[str, dict[int, Timed]] = {"ours": {n: partial(_ours, plan, n) for n in OURS}, "lm-eval": theirs}
    threads = sorted({1, os.cpu_count() or 1})
    times = {who: {(k, n): list[float]() for k in threads for n in sizes} for who, sizes in makers.items()}
    answers = dict[str, list[str]]()
    for number in range(rounds + 1):
        for who, settings in times.items():
            for (k, n), taken in settings.items():
                torch.set_num_threads(k)
                seconds, answers[who] = makers[who][n]()
                taken += [seconds] if number else []  # the first round compiles and fills caches
    torch.set_num_threads(1)
    results = {who: _summary(settings) for who, settings in times.items()}
    same = sum(a.strip() == b.strip() for a, b in zip(answers["ours"], answers["lm-eval"], strict=True))
    for who, result in results.items():
        console.print(f"nano_math, {who}:", ", ".join(f"{t:.2f} s with {k}" for k, t in result["seconds"].items()))
    for title, count in {"each at its best": 0, "one thread each": 1}.items():
        a, b = (times[who][_summary(times[who], count)["best"]] for who in ("ours", "lm-eval"))
        low, middle, high = quartiles([x / y for x, y in zip(a, b, strict=True)])
        console.print(f"ours ÷ lm-eval, {title}: {middle:.2f} \\[{low:.2f}, {high:.2f}]")
        results["ours"][title] = low, middle, high
    console.print(f"the same answers: {same} of {len(answers['ours'])}")
    return [{"who": who, **result, "same": same, "compiled": compiled} for who, result in results.items()]


def _summary(times: dict[tuple[int, int], list[float]], threads: int = 0) -> dict[str, Any]:
    """Return the median seconds of each setting by its name, and the best one, of `threads` threads if not 0."""
    medians = {key: statistics.median(taken) for key, taken in times.items() if threads in (0, key[0])}
    return {"best": min(medians, key=lambda key: medians[key]),
            "seconds": {f"{k} threads, {n} sequences": t for (k, n), t in medians.items()}}


def _ours(plan: Plan, concurrency: int) -> tuple[float, list[str]]:
    runner = Runner(replace(plan, config=replace(plan.config, concurrency=concurrency)), time.perf_counter)
    records = [record for cell in runner.plan.cells() for record in runner.decode(cell, cell.examples)]
    return sum(record.seconds for record in records), [record.turns[0].text for record in records]


def _theirs(plan: Plan) -> dict[int, Timed]:
    task, examples = plan.tasks[0]
    questions, model = [str(task.prompt(example, [])) for example in examples], library("nano")

    def timed(backend: Any) -> tuple[float, list[str]]:
        start = time.perf_counter()
        answers: Sequence[str] = lm_eval_answers(backend, questions, task.stop, task.max_new_tokens)
        return time.perf_counter() - start, list(answers)
    return {n: partial(timed, lm_eval(model, plan.target.tokenizer, n)) for n in THEIRS}


@torch.inference_mode()
def main() -> None:
    """Run this benchmark alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--compile", action="store_true", help="time our compiled forward")
    options = parser.parse_args()
    logging.set_verbosity_error()
    whole_task(options.rounds, options.compile, Console(width=120))


if __name__ == "__main__":
    main()
