"""Parallel frontier: scores against tokens per forward of every rule that fills masks, and what its forwards cost.

The model (`-m`) fills masks. Each rule answers the tasks with every value of its knob that a sweep tries, and is
compared with another model (`--draft`) that writes from left to right: greedy, with prompt lookup, with the first model
as its draft, and with a draft of its own where it has one. `score` is in %, and `tpf` are tokens of the answer per
forward; those of drafts do not count. What cannot run is left out.

`aup` is the area under the score over tpf (d3LLM, arXiv 2601.07568): a score counts less the further it is below
`y_max`, the best one of this table, which `of` has. Each curve begins with plain decoding of its model: one mask a
step, or greedy. Rows of `all` tasks have means.

`width` are the tokens in a forward, and `cost` is the time of all forwards per token of the answer, those of prompts
and drafts too, in units of one forward of the second model (without one, of the first) over one token: v, timed for
each width behind a prompt of usual length. The runs are in the study's folder, and are resumed.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from harness.measure.limits import seconds_of
from harness.measure.raw import Raw, read
from harness.plugins.registry import STRATEGIES
from harness.plugins.spec import Spec
from harness.plugins.study import Setting, Study, knob
from harness.report.plot_parts import log_scale
from harness.run.answered import answered, score_column
from harness.run.loading import draft_name, find_device, load_target
from harness.stats.aup import aup
from harness.store.folder import Store
from harness.store.schema import ForwardTimes
from harness.verify.forwards import TOKENS, WIDTHS, curve_of, forward_seconds

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

RULES = {"canvas_schedule": "tokens", "canvas_origin": "tokens", "canvas_threshold": "threshold",
         "canvas_factor": "factor", "canvas_frechet": "margin", "entropy_bound": "gamma",
         "joint_threshold": "threshold", "canvas_renoise": "gamma", "learn2pd": "threshold", "canvas_oracle": ""}
LOOKUP, OWN = {"greedy": "", "prompt_lookup": "", "canvas_draft": "gamma"}, {"speculative": "gamma"}
TASKS = ("nano_math", "nano_edit", "nano_summary")
EXAMPLES, ROUNDS, FIGURES = 20, 20, ["score", "tpf", "width", "cost", "aup"]  # of a task; forwards of a width


class Answers(NamedTuple):
    """A run: `methods` has the name of each strategy and the value of its knob, by spec."""

    store: Store
    raw: Raw
    methods: Mapping[str, tuple[str, str]]


@dataclass(frozen=True)
class ParallelFrontier(Study):
    """A row for each task, model, method and value of its knob, and for the mean of all tasks."""

    block: int = knob(32, "places of a window, unless the model has blocks", low=1, high=32, sweep=(8, 16, 32))
    cache: str = knob("none", "what a forward takes from earlier ones", choices=("none", "prefix", "dual", "block"))
    cut: bool = knob(True, "whether everything behind an EOS is dropped")

    paper: ClassVar[str] = "https://arxiv.org/abs/2601.07568"
    heeds: ClassVar[frozenset[str]] = frozenset({"draft", "tasks", "limit"})

    def table(self, setting: Setting) -> "pd.DataFrame":
        """Run both models, or one if there is no second one, and time their forwards."""
        import pandas as pd

        times = timed(setting, runs := list(self._runs(setting)))
        unit = times[runs[-1].store.manifest.model.name].seconds[0]
        return with_areas(pd.DataFrame([row for one in runs for row in self._rows(one, times, unit)]))

    def _runs(self, setting: Setting) -> Iterator[Answers]:
        fills, other = setting.config.model, setting.config.draft
        own = draft_name(replace(setting.config, model=other, draft=None)) if other else None
        rules = swept(RULES, f"block={self.block},cache={self.cache},cut={self.cut},")
        for model, draft, methods in ((fills, None, rules), (other, fills, swept(LOOKUP)), (other, own, swept(OWN))):
            if model == fills or (other and draft):
                store = answered(setting, self.name, f"{model} with {draft}" if draft else fills, model=model,
                                 draft=draft, strategies=tuple(methods), baseline=next(iter(methods)),
                                 tasks=setting.config.tasks or TASKS, limit=setting.config.limit or EXAMPLES)
                yield Answers(store, read(store), methods)

    def _rows(self, run: Answers, times: Mapping[str, ForwardTimes], unit: float) -> Iterator[dict[str, Any]]:
        manifest, frame = run.store.manifest, run.raw.samples
        for task in manifest.tasks:
            column = score_column(self.name, task, frame)
            for entry in (one for one in manifest.strategies if not one.unsupported):
                cell = frame[(frame["task"] == task.spec) & (frame["strategy"] == entry.spec)]
                steps, (method, value) = run.raw.cell(task.spec, entry.spec).steps, run.methods[entry.spec]
                seconds = seconds_of(times[manifest.model.name], steps["forwards"], steps["positions"])
                if manifest.draft:
                    seconds += seconds_of(times[manifest.draft.name], steps["draft_forwards"], steps["draft_positions"])
                tokens, forwards, positions = cell[["tokens", "forwards", "positions"]].sum()
                yield {"task": Spec.parse(task.spec).name, "model": manifest.model.name, "method": method,
                       "setting": value, "score": 100 * cell[column].mean(), "tpf": tokens / forwards,
                       "width": positions / forwards, "cost": seconds / unit / tokens}

    def plot(self, table: "pd.DataFrame", axes: "Axes") -> None:
        """Draw the mean score of all tasks by tokens per forward, a line for each method."""
        every = table[table["task"] == "all"]
        for number, ((model, method), rows) in enumerate(every.groupby(["model", "method"], sort=False)):
            line, area = rows.sort_values("tpf"), rows["aup"].iloc[0]
            axes.plot(line["tpf"], line["score"], "-" if model == every["model"].iloc[0] else "--", markersize=3,
                      marker="osD"[number // 10], color=f"C{number % 10}", label=f"{method} ({area:.0f})")
        log_scale(axes)
        axes.set(xlabel="tokens per forward", ylabel="mean score (%)")
        axes.legend(frameon=False, fontsize=7, title="method (AUP)", bbox_to_anchor=(1.01, 1), loc="upper left")


def swept(rules: Mapping[str, str], more: str = "") -> dict[str, tuple[str, str]]:
    """Return strategies with every value that a sweep of their knob tries: their names and these by their specs."""
    values = {name: [f"{one}={value}" for value in STRATEGIES.get(name).knobs()[one].sweep] if one else [""]
              for name, one in rules.items()}
    return {STRATEGIES.build(f"{name}:{more}{one}").spec(): (name, one) for name in values for one in values[name]}


def timed(setting: Setting, runs: list[Answers]) -> dict[str, ForwardTimes]:
    """Time the forwards of every model, for widths up to the widest of the runs, behind a prompt of usual length."""
    found = {one.name: one.dtype for run in runs for one in (run.store.manifest.model, run.store.manifest.draft) if one}
    config = replace(setting.config, device=find_device(setting.config.device))
    models = [load_target(replace(config, model=name, dtype=dtype)) for name, dtype in found.items()]
    cells = [cell for run in runs for cell in run.raw.cells()]
    usual = sorted(tokens for cell in cells for tokens in cell.turns["prompt_tokens"])
    widest = max((cell.steps[f"{kind}positions"] / cell.steps[f"{kind}forwards"].clip(lower=1)).max()
                 for cell in cells for kind in ("", "draft_"))
    room = min(model.engine.max_len for model in models)
    widths = [*(width for width in WIDTHS if width < widest), min(math.ceil(widest), room - 1)]
    context = max(1, min(int(usual[len(usual) // 2]), room - widths[-1]))
    setting.say(f"forwards over 1 to {widths[-1]} tokens")
    taken = forward_seconds([model.engine for model in models], list(islice(cycle(TOKENS), context)), widths, ROUNDS)
    return {model.name: curve_of(model, seconds) for model, seconds in zip(models, taken, strict=True)}


def with_areas(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Add rows for all tasks, and the areas with the best score of each task; the first row of a model is plain."""
    import pandas as pd

    for _, of_task in rows.groupby("task"):
        top = of_task.sort_values("score", ascending=False, kind="stable").iloc[0]
        for (model, _), own in of_task.groupby(["model", "method"]):
            plain = of_task[of_task["model"] == model].iloc[:1]
            points = set(pd.concat([plain, own])[["tpf", "score"]].itertuples(index=False, name=None))
            rows.loc[own.index, "aup"] = aup(sorted(points), top["score"]) if top["score"] else 0.0
        rows.loc[of_task.index, "y_max"] = top["score"]
        rows.loc[of_task.index, "of"] = f"{top['method']} {top['setting']}".strip()
    means = rows.groupby(["model", "method", "setting"], sort=False)[FIGURES].mean().reset_index()
    return pd.concat([rows, means.assign(task="all", of="")], ignore_index=True)
