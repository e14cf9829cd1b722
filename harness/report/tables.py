"""Tables of a summary: for the terminal, as CSV, and as GitHub Markdown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd
from rich import box
from rich.table import Table
from rich.text import Text

from harness.plugins.spec import Spec
from harness.store.schema import Manifest

DASH = "–"  # what is not known
FOREIGN = 0.02  # of what a server wrote: more than that was asked for by others
RARE = 0.02  # a larger share of outliers among the times of a task is worth a note


@dataclass(frozen=True)
class Column:
    """A figure of the summary as it is shown: its name there, its title, what it means, and how it is written."""

    key: str
    title: str
    help: str
    style: str = "number"  # number, count, share, milliseconds, megabytes, p
    ends: bool = False
    digits: int = 2

    def text(self, row: "pd.Series[float]", most: int = 3) -> str:
        """The value of one row, with its interval when it has one; a dash when it is unknown."""
        value = float(row[self.key])
        if value != value:
            return DASH
        low, high = (float(row[f"{self.key}_{end}"]) if self.ends else float("nan") for end in ("low", "high"))
        digits = min(self.digits, most)
        shown = self._shown(value, digits)
        return shown if low != low else f"{shown} [{self._shown(low, digits)}, {self._shown(high, digits)}]"

    def _shown(self, value: float, digits: int) -> str:
        value = float(f"{value:.9g}")  # 9.9999999999 is 10, and is written with as many digits
        if self.style == "count":
            return f"{value:,.4g}"
        if self.style == "share":
            return f"{round(100 * value)} %" if value < 10 else ">999 %"
        if self.style == "p":
            return "<0.001" if value < 0.001 else f"{value:.{3 if value < 0.1 else 2}f}"
        if self.style == "megabytes":
            return f"{value / 1e6:,.0f}"
        if self.style == "milliseconds":
            return f"{1000 * value:.3g}" if value < 1 else f"{1000 * value:,.0f}"
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.{digits}f}"


QUALITY = Column("quality", "quality", "Mean score of the task (its metric is named in the heading), with the 95 % "
                 "interval of a bootstrap that resamples whole problems.", ends=True, digits=3)
SPEED = Column("tokens_per_second", "tok/s", "Tokens per second, end to end: reading the prompt counts.")
SPEEDUP = Column("speedup", "speed-up", "Tokens per second divided by the baseline's on the same problem: geometric "
                 "mean over problems, with a 95 % interval. Above 1 is faster.", ends=True)
TAU = Column("tau_pooled", "τ", "Tokens per step after the first step of each answer, over all steps (tau_pooled).")
FORWARDS = Column("forwards_per_token", "fwd/tok", "Forward passes of the model for each token it kept.", digits=3)
COLUMNS = (
    QUALITY,
    Column("truncated", "truncated", "Answers that ran into the token or the context limit.", "share"),
    SPEED, SPEEDUP, TAU, FORWARDS,
    Column("quality_p_holm", "p quality", "Chance of a difference in quality at least as large on the same problems if "
           "there were none, corrected for the number of strategies (Holm). Below 0.05 it can be trusted.", "p"),
    Column("quality_findable", "finds quality", "The difference in quality that these problems would show four times "
           "in five (p below 0.05, before the correction).", digits=3),
    Column("speedup_p_holm", "p speed", "The same chance for the speed-up.", "p"),
    Column("speedup_findable", "finds speed", "The speed-up or slow-down that these problems would show four times in "
           "five.", "share"),
    Column("decode_tokens_per_second", "decode tok/s", "Tokens per second without the first step of each answer."),
    Column("ttft_median", "TTFT ms", "Median time to the first token, in milliseconds.", "milliseconds"),
    Column("draft_forwards_per_token", "draft fwd/tok", "Forward passes of the draft model for each token kept."),
    Column("positions_per_token", "pos/tok", "Positions the model read for each token kept, the prompt included."),
    Column("accept_rate", "accepted", "Drafted tokens that the model accepted. It depends on how many are drafted.",
           "share"),
    Column("tokens_mean", "tokens", "Mean number of tokens of an answer.", "count"),
    Column("batch", "texts/fwd", "Texts that a forward of the model read on average, when several are decoded at a "
           "time."),
    Column("padding", "padding", "Places in those forwards that held no token.", "share"),
    Column("same_as_baseline", "same", "Answers whose tokens are exactly the baseline's.", "share"),
    Column("first_difference", "differs at", "Median position of the first token that differs from the baseline's, "
           "among the answers that do.", "count"),
)


def passes(summary: pd.DataFrame) -> list[Column]:
    """The pass@k columns that a summary has."""
    found = sorted(int(str(name).rpartition("_")[2]) for name in summary if str(name).startswith("pass_at_"))
    return [Column(f"pass_at_{k}", f"pass@{k}", f"Chance that at least one of {k} samples is right.", digits=3)
            for k in found]


def scores(summary: pd.DataFrame) -> list[Column]:
    """The scores that a summary has beside the headlines."""
    names = [str(name).removeprefix("score_") for name in summary if str(name).startswith("score_")]
    return [Column(f"score_{name}", name, f"Mean of {name}, another score of the task: see decodebench show TASK.",
                   digits=3) for name in names]


def columns(summary: pd.DataFrame) -> list[Column]:
    """All columns that a summary has."""
    return [QUALITY, *scores(summary), *COLUMNS[1:], *passes(summary)]


def present(rows: pd.DataFrame) -> list[Column]:
    """The columns that have a value in some of `rows`."""
    return [column for column in columns(rows) if rows[column.key].notna().any()]


def labels(specs: Iterable[str]) -> dict[str, str]:
    """A short label for each spec: its name, and the knobs that tell it from others of that name."""
    parsed, short = {text: Spec.parse(text) for text in specs}, {}
    for text, spec in parsed.items():
        alike = [other for other in parsed.values() if other.names == spec.names]
        stages = [stage.only({key for key, value in stage.knobs.items()
                              if any(other.stages[place].knobs.get(key) != value for other in alike)})
                  for place, stage in enumerate(spec.stages)]
        short[text] = str(Spec(tuple(stages)))
    return short


def names(summary: pd.DataFrame) -> list[str]:
    """The label of each row, with its run when there are several."""
    short = labels(summary["strategy"].unique())
    if "run" not in summary:
        return [short[spec] for spec in summary["strategy"]]
    return [f"{short[spec]} ({run})" for spec, run in zip(summary["strategy"], summary["run"], strict=True)]


def briefly(rows: pd.DataFrame) -> pd.DataFrame:
    """The same rows with a short label for each task: paths of files are too long for narrow tables."""
    return rows.assign(task=rows["task"].map(labels(rows["task"].unique())))


def notes(summary: pd.DataFrame) -> list[str]:
    """What a reader must know beside the numbers: what could not run or be scored, and what failed."""
    named = briefly(summary).assign(label=names(summary))
    absent = named[named["unsupported"] != ""].drop_duplicates("label")
    unscored = named[named["quality_note"] != ""].drop_duplicates("task")
    cut = named[named["cut"] > 0].drop_duplicates("task")
    parted = named[named["parted"] > 0]
    late = named[named["score_timeout"] > 0] if "score_timeout" in named else named[:0]
    failed = int(named["failed"].sum())
    return [
        *(f"{row['label']} is not supported: {row['unsupported']}" for _, row in absent.iterrows()),
        *(f"{row['task']} has no quality: {row['quality_note']}" for _, row in unscored.iterrows()),
        *(f"{row['task']}: {100 * row['cut']:.0f} % of the prompts lost their start to fit the model"
          for _, row in cut.iterrows()),
        *(f"{row['label']} on {row['task']}: {round(row['score_timeout'] * row['samples'])} of {row['samples']} "
          "programs ran out of time" for _, row in late.iterrows()),
        *(f"{row['label']} on {row['task']}: {row['parted']} of {row['samples']} answers part from the baseline's, "
          f"though it is exact; the two tokens' logits are at most {row['margin']:.1g} apart there"
          for _, row in parted.iterrows()),
        *_drafts(named),
        *_clock(named),
        *([f"{failed} {'sample' if failed == 1 else 'samples'} failed and count in no number"] if failed else []),
    ]


def _drafts(named: pd.DataFrame) -> list[str]:
    """What a server that drafts by itself counted, a sentence a cell."""
    if "server_tau" not in named:
        return []
    return [f"{row['label']} on {row['task']}: the server drafted by itself; its own counters say that "
            f"{100 * row['server_accepted']:.0f} % of its drafts were accepted, {row['server_tau']:.2f} tokens a step"
            + (f", and that {100 * row['server_other']:.0f} % of what it wrote was for others"
               if row["server_other"] > FOREIGN else "")
            for _, row in named[named["server_tau"].notna()].iterrows()]


def _clock(named: pd.DataFrame) -> list[str]:
    """What shows that the machine was not steady, a sentence each."""
    tasks = named.drop_duplicates("task")
    drifting = tasks[(tasks["drift_p"] < 0.001) & ((tasks["drift"] - 1).abs() > 0.03)]
    far = named.groupby("task", sort=False)[["far_times", "times"]].sum()
    far = far[far["far_times"] > RARE * far["times"]]
    return [
        *(f"{row['task']}: steps took {100 * abs(row['drift'] - 1):.0f} % {'more' if row['drift'] > 1 else 'less'} "
          "time at the end than at the start; speed-ups are paired and do not suffer, tokens/s do"
          for _, row in drifting.iterrows()),
        *(f"{task}: {row['far_times']} of {row['times']} times are far from the others of their strategy; something "
          "else ran on the machine" for task, row in far.iterrows()),
        *(f"{row['task']}: by the scatter of its repeats, the baseline may seem {100 * (row['noise_floor'] - 1):.2g} % "
          "faster than itself; a smaller speed-up is noise"
          for _, row in tasks[tasks["noise_floor"].notna()].iterrows()),
    ]


def status(row: "pd.Series[float]") -> str:
    """Why a cell has no numbers, or how many of its samples failed; empty for a cell that is fine."""
    if row["unsupported"]:
        return "not supported"
    total = int(row["samples"] + row["failed"])
    if not total:
        return "not run"
    return f"{int(row['failed'])} of {total} failed" if row["failed"] else ""


def unscored(row: "pd.Series[float]") -> str:
    """What stands in the quality cell of a task without scores: the reason when it is short."""
    reason = str(row["quality_note"])
    return reason if len(reason) <= 12 else "unscored"


def terminal(summary: pd.DataFrame, manifest: Manifest) -> Table:
    """The summary of one run grouped by task, for a terminal of 80 columns or more."""
    short = labels(summary["strategy"].unique())
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption_justify="left",
                  title=Text(f"{manifest.model.name} ({manifest.model.dtype})", style="table.title"),
                  title_justify="left")
    baseline = short.get(manifest.baseline, manifest.baseline)
    table.caption = Text("\n".join([f"speed-up over {baseline}; 95 % intervals", *notes(summary), *manifest.warnings]),
                         style="table.caption")
    table.add_column("strategy", overflow="fold", min_width=12)
    shown = (QUALITY, SPEED, SPEEDUP, TAU, FORWARDS)
    for column in shown:
        table.add_column(column.title, justify="left" if column.ends else "right", no_wrap=True)
    for task, rows in briefly(summary).groupby("task", sort=False):
        metric = DASH if rows["quality_note"].iloc[0] else rows["quality_metric"].iloc[0]
        table.add_row(Text(str(task), style="bold"), Text(metric, style="dim"))
        for _, row in rows.iterrows():
            problem = status(row)
            cells = [column.text(row, 2) for column in shown]
            if row["quality_note"]:
                cells[0] = unscored(row)
            if problem and not row["samples"]:
                cells[0] = problem
            label = Text(short[row["strategy"]].replace(":", " ", 1).replace(",", " "))  # narrow tables fold at spaces
            if problem and row["samples"]:
                label.append(f"\n{problem}", style="red")
            table.add_row(label, *cells, style="dim" if not row["samples"] else None)
        table.add_section()
    return table


def csv(summary: pd.DataFrame) -> str:
    """The whole summary as CSV, six significant digits, empty where unknown."""
    return summary.to_csv(index=False, lineterminator="\n", float_format="%.6g")


def markdown(summary: pd.DataFrame) -> str:
    """One GitHub table a task, with every column that has a value there, and the notes below."""
    lines = []
    for task, rows in summary.assign(label=names(summary)).groupby("task", sort=False):
        columns = present(rows)
        lines += [f"### {task}", "", f"Quality: {rows['quality_note'].iloc[0] or rows['quality_metric'].iloc[0]}", ""]
        lines += [line(["strategy", "samples", *(column.title for column in columns)]),
                  line(["---", "---", *("---:" for _ in columns)])]
        for _, row in rows.iterrows():
            samples = f"{row['samples']} ({problem})" if (problem := status(row)) else str(row["samples"])
            lines.append(line([f"`{row['label']}`", samples, *(column.text(row) for column in columns)]))
        lines.append("")
    return "\n".join([*lines, *(f"- {_escaped(note)}" for note in notes(summary))]).rstrip() + "\n"


def line(cells: Sequence[str]) -> str:
    """A row of a GitHub table."""
    return f"| {' | '.join(_escaped(cell) for cell in cells)} |"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
