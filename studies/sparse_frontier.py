"""Sparse frontier: scores against operations of a small and a large model, by the share of keys that are left out.

Nawrot et al. 2025 (arXiv 2504.17768), the analysis at equal FLOPs and the test of sparsity without loss, at the size of
the models here. Both models (`-m`, and `--draft` as the smaller one) answer the tasks with all keys and at each of the
sparsities 0.5, 0.75 and 0.9 under each pattern. `quest` leaves out that share of the pages of the text so far, each of
`page` keys, with the paper's own rule; `snapkv` drops that share of the prompt, and keeps the answer. Prompts are read
with all keys. `mflop` are the operations of an answer after its prompt, and `keys` is the share of keys that was really
read, both with the bounds of pages.

`p` is that of Welch's t test of the scores against those with all keys. `safe` is the largest sparsity up to which no p
is below 0.05, in the rows of `all` tasks that of the worst task. With few examples hardly any loss is significant: then
`safe` says that no loss was shown, not that there is none. The runs are in the study's folder, and are resumed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import UserError
from harness.measure.summary import samples
from harness.plugins.registry import STRATEGIES
from harness.plugins.spec import Spec
from harness.plugins.study import Setting, Study, knob
from harness.report.plot_parts import log_scale
from harness.run.answered import answered, score_column
from harness.run.loading import draft_name
from harness.stats.welch import welch

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

SPARSITIES = (0.5, 0.75, 0.9)
PATTERNS = {"quest": "greedy+quest:share={share:g},page={page},dense=0,variant=frontier",
            "snapkv": "greedy+snapkv:share={share:g},win={win}"}
TASKS = ("nano_needle", "nano_summary", "nano_math")
EXAMPLES, SURE = 12, 0.05  # examples of each task, level of the test
NAN = float("nan")
COLUMNS = ["model", "task", "pattern", "sparse", "keys", "mflop", "score", "p", "safe"]


@dataclass(frozen=True)
class SparseFrontier(Study):
    """A row for each model, task, pattern and sparsity, and for the mean of all tasks."""

    page: int = knob(4, "keys of a page of quest", low=1, high=1024, sweep=(4, 8, 16))
    win: int = knob(8, "last tokens of the prompt that choose its keys for snapkv", low=1, high=1024, sweep=(8, 16, 32))

    paper: ClassVar[str] = "Nawrot et al. 2025, arXiv 2504.17768"
    heeds: ClassVar[frozenset[str]] = frozenset({"draft", "tasks", "limit"})

    def table(self, setting: Setting) -> "pd.DataFrame":
        """Run both models, or one if there is no second one, and compare the scores of each with its own dense ones."""
        import pandas as pd

        small = draft_name(setting.config)
        names = [name for name in (small, setting.config.model) if name]
        return pd.concat([self._rows(setting, name) for name in names], ignore_index=True)[COLUMNS]

    def specs(self) -> dict[str, tuple[str, float]]:
        """Return the pattern and the sparsity of each strategy."""
        made = {("greedy" if not sparsity else STRATEGIES.build(spec.format(
            share=round(1 - sparsity, 6), page=self.page, win=self.win)).spec()): (name, sparsity)
                for name, spec in PATTERNS.items() for sparsity in SPARSITIES}
        return {"greedy": ("dense", 0.0)} | made

    def _rows(self, setting: Setting, model: str) -> "pd.DataFrame":
        import pandas as pd

        specs = self.specs()
        store = answered(setting, self.name, model, model=model, draft=None, strategies=tuple(specs),
                         tasks=setting.config.tasks or TASKS, limit=setting.config.limit or EXAMPLES)
        frame, rows = samples(store), list[dict[str, Any]]()
        if store.manifest.model.sizes is None:
            raise UserError(f"sparse_frontier: the operations of {model} are unknown, since its layers differ in size.")
        for task in store.manifest.tasks:
            column = score_column(self.name, task, frame)
            cells = dict(iter(frame[frame["task"] == task.spec].groupby("strategy")))
            dense = cells["greedy"]
            for spec, (pattern, sparsity) in specs.items():
                cell = cells[spec]
                rows.append({"model": model, "task": Spec.parse(task.spec).name, "pattern": pattern,
                             "sparse": sparsity, "keys": cell["keys"].sum() / cell["all_keys"].sum(),
                             "mflop": cell["flops"].mean() / 1e6, "score": cell[column].mean(),
                             "p": NAN if pattern == "dense" else round(welch(cell[column], dense[column]), 4)})
        return with_safe(pd.DataFrame(rows))

    def plot(self, table: "pd.DataFrame", axes: "Axes") -> None:
        """Draw the mean score of all tasks by operations, a line for each model and pattern from its dense point."""
        every = table[table["task"] == "all"]
        for colour, (model, rows) in enumerate(every.groupby("model", sort=False)):
            dense = rows[rows["pattern"] == "dense"]
            for (pattern, line), style in zip(rows[rows["pattern"] != "dense"].groupby("pattern"), ("-", "--"),
                                              strict=False):
                axes.plot([*dense["mflop"], *line["mflop"]], [*dense["score"], *line["score"]], style, marker=".",
                          color=f"C{colour}", label=f"{model}, {pattern}")
            axes.plot(dense["mflop"], dense["score"], "o", color=f"C{colour}")
        axes.set(xlabel="million operations of an answer after its prompt", ylabel="mean score")
        log_scale(axes)
        axes.legend(frameon=False)


def with_safe(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Add `safe`, and rows for all tasks: means, the least p, and the sparsity that is safe in the worst task."""
    import pandas as pd

    rows["safe"] = NAN
    for _, group in rows[rows["pattern"] != "dense"].groupby(["task", "pattern"]):
        rows.loc[group.index, "safe"] = safe(list(zip(group["sparse"], group["p"], strict=True)))
    more = [{"model": group["model"].iloc[0], "task": "all", "pattern": pattern, "sparse": sparsity,
             **{name: fmean(group[name]) for name in ("keys", "mflop", "score")}, "p": group["p"].min(),
             "safe": group["safe"].min()} for (pattern, sparsity), group in rows.groupby(["pattern", "sparse"],
                                                                                         sort=False)]
    return pd.concat([rows, pd.DataFrame(more)], ignore_index=True)


def safe(tests: Sequence[tuple[float, float]]) -> float:
    """Return the largest sparsity up to which all p-values are at least `SURE`; 0 if that of the least is below."""
    held = 0.0
    for sparsity, p in sorted(tests):
        if p < SURE:
            break
        held = sparsity
    return held
