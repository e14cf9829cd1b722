"""Measure whether the embedded models behave like larger language models, on their own test problems.

python -m benchmarks.nano [--weights FOLDER] [--limit 200] [--out runs/nano-profile]

Runs the embedded tasks in fp32, prints each figure with its requirement, and exits 1 when one is not met.
The same command resumes an interrupted run.
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import DynamicCache

from harness.cli.progress import watching
from harness.errors import UserError
from harness.measure.summary import samples
from harness.models.loading import Model, load
from harness.nano import weights
from harness.plugins.registry import STRATEGIES
from harness.run.runner import run
from harness.stats.bootstrap import Interval, mean_interval, ratio_interval
from harness.store.config import RunConfig
from harness.store.folder import Store

HEADLINES = {"math": "flexible", "code": "pass", "chat": "follows", "story": "fresh", "edit": "exact",
             "summary": "exact"}
TASKS = tuple(f"nano_{kind}" for kind in HEADLINES)
RANGES = {"math": (0.55, 0.97), "code": (0.45, 0.97), "chat": (0.5, 0.97), "edit": (0.5, 0.97)}
SAMPLED, DRAFTED, LOOKED_UP = "top_p:p=1", "speculative", "prompt_lookup"
LESS_REPETITIVE = ("contrastive_search", "momentum")
LOOKED_UP_SAMPLED = "prompt_lookup:temperature=1"
# Runs by name: strategies (greedy is always included), tasks, batch size, answers a problem.
RUNS: dict[str, tuple[tuple[str, ...], tuple[str, ...], int, int]] = {
    "speed": ((DRAFTED, LOOKED_UP), TASKS, 1, 1),
    "story": (("top_p", "beam", *LESS_REPETITIVE, LOOKED_UP_SAMPLED), ("nano_story",), 16, 1),
    "search": (("beam",), ("nano_math", "nano_code", "nano_edit"), 16, 1),
    "sampled": ((SAMPLED,), ("nano_math",), 16, 4),
}


class Figure(NamedTuple):
    """A measured figure, its requirement in words, and whether it is met (None: no requirement)."""

    name: str
    value: Interval
    required: str
    met: bool | None


class Cells:
    """The samples of all runs, by run, task and strategy."""

    def __init__(self, frames: dict[str, pd.DataFrame]) -> None:
        self.frames = frames

    def cell(self, name: str, kind: str, strategy: str) -> pd.DataFrame:
        """Return the samples of one strategy on one task, indexed by example and sample."""
        frame = self.frames[name]
        spec = STRATEGIES.build(strategy).spec()
        rows = frame[(frame["task"] == f"nano_{kind}") & (frame["strategy"] == spec)]
        return rows.set_index(["example", "sample"])

    def score(self, name: str, kind: str, strategy: str, score: str = "") -> "pd.Series[float]":
        """Return the mean of a score over the answers to each example."""
        column = self.cell(name, kind, strategy)[f"score_{score or HEADLINES[kind]}"]
        return column.groupby("example").mean()


def measure(folder: Path, model: Path, draft: Path, limit: int) -> Cells:
    """Run the missing samples in `folder`, and return all."""
    frames = {}
    for name, (strategies, tasks, concurrency, answers) in RUNS.items():
        config = RunConfig(
            model=str(model), draft=str(draft), strategies=strategies, tasks=tasks, limit=limit, samples=answers,
            concurrency=concurrency, threads=1, output=folder / name, allow_code_execution=True,
        )
        with watching() as watcher:
            run(config, watcher, f"python -m benchmarks.nano ({name})")
        frames[name] = samples(Store.open(folder / name))
    return Cells(frames)


def figures(cells: Cells) -> Iterator[Figure]:
    """Yield every figure of the runs."""
    yield from _qualities(cells)
    yield from _choices(cells)
    yield from _repetition(cells)
    yield from _drafting(cells)
    yield from _speed(cells)


def _qualities(cells: Cells) -> Iterator[Figure]:
    for kind, headline in HEADLINES.items():
        value = _mean(cells.score("speed", kind, "greedy"))
        low, high = RANGES.get(kind, (None, None))
        met = None if low is None or high is None else low <= value.mean <= high
        yield Figure(f"greedy: {headline} on nano_{kind}", value, "" if met is None else f"{low} to {high}", met)


def _choices(cells: Cells) -> Iterator[Figure]:
    loss = cells.score("speed", "math", "greedy") - cells.score("sampled", "math", SAMPLED)
    value = _mean(loss)
    yield Figure("greedy - temperature-1 sampling on nano_math", value, "interval above 0", value.low > 0)
    best = cells.cell("sampled", "math", SAMPLED)["score_flexible"].groupby("example").max()
    gains = [("best of 4 samples - greedy on nano_math", best - cells.score("speed", "math", "greedy"))]
    for name, kind in (("search", "math"), ("search", "code"), ("search", "edit"), ("story", "story")):
        gain = cells.score(name, kind, "beam") - cells.score("speed", kind, "greedy")
        gains.append((f"beam - greedy on nano_{kind}", gain))
    values = [(name, _mean(gain)) for name, gain in gains]
    any_differs = any(value.low > 0 or value.high < 0 for _, value in values)
    for name, value in values:
        yield Figure(name, value, "one of these without 0", any_differs)


def _repetition(cells: Cells) -> Iterator[Figure]:
    def score(strategy: str, name: str) -> "pd.Series[float]":
        return cells.score("story", "story", strategy, name)

    for strategy in ("greedy", "top_p", "beam", *LESS_REPETITIVE):
        for name in ("rep_4", "coherence", "fresh"):
            yield Figure(f"{strategy}: {name} on nano_story", _mean(score(strategy, name)), "", None)
    greedy, sampled = score("greedy", "rep_4"), score("top_p", "rep_4")
    value = _mean(greedy - 2 * sampled)
    yield Figure("rep_4 of greedy - 2 x that of top_p", value, "interval above 0", value.low > 0)
    for strategy in LESS_REPETITIVE:
        value = _mean((greedy - score(strategy, "rep_4")) - 0.5 * (greedy - sampled))
        yield Figure(f"{strategy}: repair beyond half of top_p's", value, "interval above 0", value.low > 0)
        value = _mean(score("greedy", "coherence") - score(strategy, "coherence"))
        yield Figure(f"{strategy}: coherence lost", value, "at most 0.1", value.mean <= 0.1)


def _drafting(cells: Cells) -> Iterator[Figure]:
    rates = {}
    for kind in HEADLINES:
        cell = cells.cell("speed", kind, DRAFTED)
        rates[kind] = _ratio(cell["accepted"], cell["drafted"])
        required = {"math": "at least 0.75", "story": "below nano_math's"}.get(kind, "")
        below = rates[kind].high < rates["math"].low
        met = {"math": rates[kind].mean >= 0.75, "story": below}.get(kind)
        yield Figure(f"acceptance of nano-draft on nano_{kind}", rates[kind], required, met)
    for kind in HEADLINES:
        cell = cells.cell("speed", kind, LOOKED_UP)
        value = _ratio(cell["decode_tokens"], cell["decode_steps"])
        required, met = ("at least 2.5", value.mean >= 2.5) if kind in ("edit", "summary") else ("", None)
        yield Figure(f"tau of prompt_lookup on nano_{kind}", value, required, met)
    cell = cells.cell("story", "story", LOOKED_UP_SAMPLED)  # greedy repeats itself there, which any lookup drafts
    value = _ratio(cell["decode_tokens"], cell["decode_steps"])
    yield Figure("tau of prompt_lookup on nano_story, sampled", value, "at most 1.5", value.mean <= 1.5)


def _speed(cells: Cells) -> Iterator[Figure]:
    logs = []
    for kind in HEADLINES:
        pace = [cell["tokens"] / cell["seconds"] for cell in (cells.cell("speed", kind, DRAFTED),
                                                             cells.cell("speed", kind, "greedy"))]
        ratio = (pace[0] / pace[1]).dropna()
        logs.append(ratio[ratio > 0].map(math.log))
        value = ratio_interval(logs[-1], logs[-1].index.get_level_values("example"))
        required, met = ("interval above 1", value.low > 1) if kind == "math" else ("", None)
        yield Figure(f"speculative / greedy, wall time, on nano_{kind}", value, required, met)
    whole = pd.concat(logs)
    value = ratio_interval(whole, whole.index.get_level_values("example"))
    yield Figure("speculative / greedy, wall time, all tasks", value, "interval above 1", value.low > 1)


def _mean(scores: "pd.Series[float]") -> Interval:
    return mean_interval(scores, scores.index)


def _ratio(above: "pd.Series[float]", below: "pd.Series[float]") -> Interval:
    """Return the ratio of two sums; its interval is that of the mean of the ratio's linearised terms."""
    ratio = above.sum() / below.sum()
    terms = ratio + (above - ratio * below) / below.mean()
    return mean_interval(terms, terms.index.get_level_values("example"))


def costs(model: Path, draft: Path) -> Iterator[Figure]:
    """Yield the sizes of the models, and ratios of median times of one forward after 100 tokens, interleaved."""
    torch.set_num_threads(1)
    models = [load(str(folder), dtype="float32", device="cpu") for folder in (model, draft)]
    millions = models[0].parameters / 1e6
    yield Figure("parameters of nano, millions", _exact(millions), "at most 12", millions <= 12)
    size = sum(file.stat().st_size for folder in (model, draft) for file in folder.rglob("*.safetensors")) / 1e6
    yield Figure("weights on disk, MB", _exact(size), "at most 32", size <= 32)
    times: dict[str, list[float]] = {"one": [], "eight": [], "draft": []}
    for _ in range(60):
        times["one"].append(_forward(models[0], 1))
        times["eight"].append(_forward(models[0], 8))
        times["draft"].append(_forward(models[1], 1))
    one, eight, small = (statistics.median(values) for values in times.values())
    yield Figure("a forward of nano over 1 token, ms", _exact(1000 * one), "", None)
    yield Figure("a forward over 8 tokens / over 1", _exact(eight / one), "at most 1.6", eight / one <= 1.6)
    yield Figure("a forward of nano-draft / of nano", _exact(small / one), "at most 0.25", small / one <= 0.25)


@torch.inference_mode()
def _forward(model: Model, tokens: int) -> float:
    """Return the seconds of one forward over `tokens` tokens after a context of 100."""
    cache = {model.engine.cache_argument: DynamicCache()}
    model.engine.model(input_ids=torch.arange(100)[None], **cache)
    start = time.perf_counter()
    model.engine.model(input_ids=torch.arange(tokens)[None], **cache)
    return time.perf_counter() - start


def _exact(value: float) -> Interval:
    return Interval(value, math.nan, math.nan)


def show(measured: list[Figure]) -> None:
    """Print the figures as a table."""
    table = Table("figure", "measured", "95 % interval", "required", "", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for figure in measured:
        ends = "" if math.isnan(figure.value.low) else f"[{figure.value.low:.3f}, {figure.value.high:.3f}]"
        mark = {None: "", True: "met", False: "NOT MET"}[figure.met]
        table.add_row(figure.name, f"{figure.value.mean:.3f}", ends, figure.required, mark)
    Console(width=125).print(table)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, or `arguments`; measure, print, and exit 1 when a requirement is not met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=weights("nano").parent, help="folder of nano/ and nano-draft/")
    parser.add_argument("--limit", type=int, default=200, help="problems of each task (default 200)")
    parser.add_argument("--out", type=Path, default=Path("runs/nano-profile"), help="folder of the runs")
    options = parser.parse_args(arguments)
    model, draft = options.weights / "nano", options.weights / "nano-draft"
    try:
        measured = [*costs(model, draft), *figures(measure(options.out, model, draft, options.limit))]
    except UserError as error:
        parser.error(str(error))
    show(measured)
    missed = sum(figure.met is False for figure in measured)
    print(f"{sum(figure.met is True for figure in measured)} requirements are met, {missed} are not")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
