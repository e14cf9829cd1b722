"""The summary as a table: for the terminal, as CSV, and as GitHub Markdown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pandas as pd
from rich.text import Text

from harness.measure.acceptance import flips
from harness.measure.leaderboard import RULE, rule
from harness.plugins.registry import TASKS
from harness.plugins.spec import Spec, labels
from harness.plugins.task_names import short_task_names, task_names
from harness.report.names import of_strategy
from harness.report.terminal import FittedTable, Head, figures
from harness.scoring.corpus import TITLES
from harness.store.schema import Manifest

DASH = "–"  # an unknown value
OTHER_CLIENTS = 0.02  # share of a server's tokens: above it, a note says that other clients used the server
ALSO = ("same_as_baseline", "quality_p_holm", "speedup_p_holm", "ttft_median")  # columns of a wide ranked table
OUTLIERS = 0.02  # share of outliers among the times of a task: above it, a note says so


@dataclass(frozen=True)
class Column:
    """A column of a table: its key in the summary, its title, its explanation, and its number format."""

    key: str
    title: str
    help: str
    style: str = "number"  # number, count, share, difference, milliseconds, megabytes, millions, p
    ends: bool = False
    digits: int = 2

    def text(self, row: "pd.Series[float]", max_digits: int = 3) -> str:
        """Return the formatted value of a row, with its interval if it has one; a dash if it is unknown.

        Equal ends are no interval: they are the baseline's, compared with itself.
        """
        value = float(row[self.key])
        if value != value:
            return DASH
        low, high = (float(row[f"{self.key}_{end}"]) if self.ends else float("nan") for end in ("low", "high"))
        digits = min(self.digits, max_digits)
        text = self._format(value, digits)
        return text + interval(low, high, lambda end: self._format(end, digits))

    def _format(self, value: float, digits: int) -> str:
        value = float(f"{value:.9g}")  # so that 9.9999999999 has as many digits as 10
        if self.style == "count":
            return f"{value:,.4g}"
        if self.style == "share":
            return f"{round(100 * value)} %" if value < 10 else ">999 %"
        if self.style == "p":
            return "<0.001" if value < 0.001 else f"{value:.{3 if value < 0.1 else 2}f}"
        if self.style == "difference":
            return f"{value:+.{digits}f}"
        if self.style == "megabytes":
            return f"{value / 1e6:,.0f}"
        if self.style == "millions":
            return f"{value / 1e6:,.3g}" if value < 1e9 else f"{value / 1e6:,.0f}"
        if self.style == "milliseconds":
            return f"{1000 * value:.3g}" if value < 1 else f"{1000 * value:,.0f}"
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.{digits}f}"


def interval(low: float, high: float, form: Callable[[float], str]) -> str:
    """Return the ends of an interval in brackets after a space, or nothing if they are unknown or equal."""
    return "" if low != low or low == high else f" [{form(low)}, {form(high) if high < 1000 else '>999'}]"


QUALITY = Column("quality", "quality", "Mean score of the task (its metric is named in the heading), with the 95 % "
                 "interval of a bootstrap that resamples whole problems.", ends=True, digits=3)
SPEED = Column("tokens_per_second", "tok/s", "Tokens per second, prefill included.")
SPEEDUP = Column("speedup", "speed-up", "Tokens per second divided by the baseline's on the same problem: geometric "
                 "mean over problems, with a 95 % interval. Above 1 is faster.", ends=True)
RANK = Column("rank", "rank", RULE, "count")
GAIN = Column("gain", "Δ quality", "Difference in quality from the baseline on the same problems: mean over tasks, "
              "with a 95 % interval.", "difference", ends=True, digits=3)
LEADERBOARD = (
    RANK, GAIN,
    Column("speedup", "speed-up", "Geometric mean over tasks, with a 95 % interval.", ends=True),
    Column("same", "same", "Answers with the baseline's tokens.", "share"),
)
TAU = Column("tau_pooled", "τ", "Tokens per decode step, over all steps after the first of each answer (tau_pooled).")
FORWARDS = Column("forwards_per_token", "fwd/tok", "Forward passes of the model per committed token.", digits=3)
COLUMNS = (
    QUALITY,
    Column("truncated", "truncated", "Answers that reached the token or context limit.", "share"),
    SPEED, SPEEDUP, TAU,
    Column("tau_answer_mean", "τ by answer", "Mean over answers of the tokens per decode step: a short answer counts "
           "as much as a long one."),
    FORWARDS,
    Column("quality_p_holm", "p quality, Holm", "Probability of a difference in quality at least this large if the "
           "strategy were as good as the baseline, after Holm's correction over the strategies. It decides: below 0.05 "
           "the difference is significant.", "p"),
    Column("quality_findable", "MDE quality", "Minimum detectable effect: the difference in quality that these "
           "problems show with probability 0.8 (p below 0.05, before the correction).", digits=3),
    Column("speedup_p_holm", "p speed, Holm", "The same probability for the speed-up, whose interval belongs to the "
           "p-value before the correction (speedup_p in the CSV).", "p"),
    Column("speedup_findable", "MDE speed", "Minimum detectable effect: the relative change of speed that these "
           "problems show with probability 0.8.", "share"),
    Column("decode_tokens_per_second", "decode tok/s", "Tokens per second after the first step of each answer."),
    Column("ttft_median", "TTFT ms", "Median time to the first token, in milliseconds.", "milliseconds"),
    Column("draft_forwards_per_token", "draft fwd/tok", "Forward passes of the draft model per committed token."),
    Column("positions_per_token", "pos/tok", "Positions in the model's forward passes per committed token, prompt "
           "included."),
    Column("accept_rate", "accepted", "Drafted tokens that the model accepted. It depends on the number of drafted "
           "tokens.", "share"),
    Column("tokens_mean", "tokens", "Mean number of tokens of an answer.", "count"),
    Column("batch", "seq/fwd", "Mean number of sequences in a forward pass of the model, with a batch size above 1."),
    Column("padding", "padding", "Padded positions in these forward passes.", "share"),
    Column("same_as_baseline", "same", "Answers with exactly the tokens of the baseline.", "share"),
    Column("first_difference", "differs at", "Median position of the first token that differs from the baseline's, "
           "over the answers that differ.", "count"),
)


COMPUTATION = (
    Column("layers_run", "layers run", "Attentions and MLPs that were computed, of those of the whole model for the "
           "same tokens. This and the next columns leave out the first step of each answer, and drafts of the model "
           "for itself.", "share"),
    Column("kv_read", "keys read", "Keys that tokens attended to, of those before them in all layers. A vector that is "
           "only compared with, such as a bound of a page of keys, is half a key.", "share"),
    Column("flops_per_token", "MFLOP/tok", "Floating-point operations per committed token, in millions: two for each "
           "weight that a token is multiplied with, four for each number of a query and each key.", "millions"),
    Column("weight_bytes_per_token", "weights MB/tok", "Weights that are loaded per committed token, once a forward, "
           "in megabytes.", "millions"),
    Column("kv_bytes_per_token", "KV MB/tok", "Keys and values that are read per committed token, in megabytes, as "
           "a kernel of the method would read them: rounded ones in their few bits.", "millions"),
)

PARALLEL = (
    Column("tokens_per_forward", "TPF", "Tokens of the answers per forward pass, of strategies that fill masks."),
    Column("forward_width", "pos/fwd", "Positions in one of their forward passes: wide ones take longer.", "count"),
)


def parallel_columns(summary: pd.DataFrame) -> list[Column]:
    """Return the columns of strategies that fill masks, if there are some in the summary."""
    return [column for column in PARALLEL if column.key in summary]


def computation_columns(summary: pd.DataFrame) -> list[Column]:
    """Return the columns of computation, if a strategy of the summary does not run the whole model."""
    return [column for column in COMPUTATION if column.key in summary]


def pass_columns(summary: pd.DataFrame) -> list[Column]:
    """Return the pass@k columns of a summary."""
    sizes = sorted(int(str(name).rpartition("_")[2]) for name in summary if str(name).startswith("pass_at_"))
    return [Column(f"pass_at_{k}", f"pass@{k}", f"Probability that at least one of {k} samples is correct.", digits=3)
            for k in sizes]


def score_columns(summary: pd.DataFrame) -> list[Column]:
    """Return the columns of the scores besides the headlines."""
    names = [str(name).removeprefix("score_") for name in summary if str(name).startswith("score_")]
    return [Column(f"score_{name}", name, f"Mean of {name}, another score of the task: see decodebench show TASK.",
                   digits=3) for name in names]


def corpus_columns(summary: pd.DataFrame) -> list[Column]:
    """Return the columns of the metrics of a whole corpus."""
    return [Column(f"corpus_{name}", title, f"{title} of all answers together, on its usual scale, with the 95 % "
                   "interval of a bootstrap over whole problems. A note says how it is computed.", ends=True, digits=1)
            for name, title in TITLES.items() if f"corpus_{name}" in summary]


def all_columns(summary: pd.DataFrame) -> list[Column]:
    """Return all columns of a summary."""
    return [QUALITY, *corpus_columns(summary), *score_columns(summary), *COLUMNS[1:],
            *parallel_columns(summary), *computation_columns(summary), *pass_columns(summary)]


def filled_columns(rows: pd.DataFrame) -> list[Column]:
    """Return the columns with a value in at least one row."""
    return [column for column in all_columns(rows) if rows[column.key].notna().any()]


def with_task_names(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with the name of each task in place of its spec."""
    return rows.assign(task=rows["task"].map(task_names(rows["task"].unique())))


def with_short_tasks(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows with a short label for each task: file paths are too long for narrow tables."""
    return rows.assign(task=rows["task"].map(short_task_names(rows["task"].unique())))


def row_labels(summary: pd.DataFrame) -> list[str]:
    """Return the label of each row, with its run if there are several."""
    short = labels(summary["strategy"].unique())
    if "run" not in summary:
        return [short[spec] for spec in summary["strategy"]]
    return [f"{short[spec]} ({run})" for spec, run in zip(summary["strategy"], summary["run"], strict=True)]


def notes(summary: pd.DataFrame) -> list[str]:
    """Return notes on the numbers: unsupported strategies, unscored tasks, failed samples, an unsteady machine."""
    named = with_short_tasks(summary).assign(label=row_labels(summary), name_of_task=[
        Spec.parse(spec).name for spec in summary["task"]])
    absent = named[named["unsupported"] != ""].drop_duplicates("label")
    unscored = named[named["quality_note"] != ""].drop_duplicates("task")
    cut = named[named["cut"] > 0].drop_duplicates("task")
    different = named[named["parted"] > 0]
    late = named[named["score_timeout"] > 0] if "score_timeout" in named else named[:0]
    failed = int(named["failed"].sum())
    return [
        *(f"{row['label']} is not supported: {row['unsupported']}" for _, row in absent.iterrows()),
        *(f"{row['task']} has no quality: {row['quality_note']}" for _, row in unscored.iterrows()),
        *(f"{row['task']}: {100 * row['cut']:.0f} % of the prompts lost worked examples or their start, to fit the "
          "context"
          for _, row in cut.iterrows()),
        *(f"{row['label']} on {row['task']}: {round(row['score_timeout'] * row['samples'])} of {row['samples']} "
          "programs ran out of time" for _, row in late.iterrows()),
        *(f"{row['label']} on {row['task']}: {row['parted']} of {row['samples']} answers differ from the "
          f"baseline's although they must be equal; the two tokens' logits are at most {row['margin']:.3g} apart"
          for _, row in different.iterrows()),
        *_corpus_notes(named),
        *_flip_notes(named),
        *_limit_notes(named),
        *_server_notes(named),
        *_time_notes(named),
        *([f"{failed} failed {'sample is' if failed == 1 else 'samples are'} not in the figures"] if failed else []),
    ]


def deciding_note(summary: pd.DataFrame) -> list[str]:
    """Return a note on what decides if p-values are corrected, because intervals are not; empty if none are."""
    compared = summary[["speedup_p_holm", "quality_p_holm"]].notna().groupby(summary["task"], sort=False).sum()
    return ["p decides whether a difference from the baseline is significant (below 0.05), because it is corrected for "
            "the number of strategies (Holm); an interval is for one strategy alone, so it can exclude 1 where p does "
            "not"] if (compared > 1).any(axis=None) else []


def _endless(name: str) -> bool:
    """Return whether answers to this task are meant to reach the limit; a task that is not installed has none."""
    return name in TASKS.names() and TASKS.get(name).endless


def _limit_notes(named: pd.DataFrame) -> list[str]:
    """Return a note per task on the strategies whose answers were all cut, unless the task wants that."""
    endless = {name: _endless(name) for name in named["name_of_task"].unique()}
    lines, fixed = list[str](), named["name_of_task"].map(endless).astype(bool)
    for task, rows in named[(named["samples"] > 0) & ~fixed].groupby("task", sort=False):
        cut = rows.loc[rows["truncated"] == 1, "label"]
        whose = "every strategy" if len(cut) == len(rows) > 1 else ", ".join(cut)
        lines += [f"{task}: every answer of {whose} ended at the token or context limit; raise --max-new-tokens to see "
                  "whole answers"] if len(cut) else []
    return lines


def _corpus_notes(named: pd.DataFrame) -> list[str]:
    """Return a note on how each corpus metric of a task is computed."""
    columns = [(title, f"corpus_{name}_how") for name, title in TITLES.items() if f"corpus_{name}_how" in named]
    return [f"{task}: {title} = {rows[column].dropna().iloc[0]}" for task, rows in named.groupby("task", sort=False)
            for title, column in columns if rows[column].notna().any()]


def _flip_notes(named: pd.DataFrame) -> list[str]:
    """Return a note on strategies whose order depends on how tokens per step are averaged; the first pair stands for
    all of a task.
    """
    lines, pairs = list[str](), flips(named)
    for task in dict.fromkeys(one["task"] for one, _ in pairs):
        (one, other), *more = (pair for pair in pairs if pair[0]["task"] == task)
        pooled, mean = ([f"{row[key]:.2f}" for row in (one, other)] for key in ("tau_pooled", "tau_answer_mean"))
        lines.append(f"{task}: τ of {one['label']} is above that of {other['label']} over all steps "
                     f"({' and '.join(pooled)}) and below it as the mean over answers ({' and '.join(mean)}), in which "
                     "long answers weigh less" + (f"; so it is for {len(more)} more pairs" if more else ""))
    return lines


def _server_notes(named: pd.DataFrame) -> list[str]:
    """Return a note per cell on the counters of a server that drafts by itself."""
    if "server_tau" not in named:
        return []
    return [f"{row['label']} on {row['task']}: the server drafted by itself; by its own counters "
            f"{100 * row['server_accepted']:.0f} % of its drafts were accepted, {row['server_tau']:.2f} tokens per step"
            + (f", and {100 * row['server_other']:.0f} % of its tokens were for other clients"
               if row["server_other"] > OTHER_CLIENTS else "")
            for _, row in named[named["server_tau"].notna()].iterrows()]


def _time_notes(named: pd.DataFrame) -> list[str]:
    """Return notes on measurements that show an unsteady machine."""
    tasks = named.drop_duplicates("task")
    drifting = tasks[(tasks["drift_p"] < 0.001) & ((tasks["drift"] - 1).abs() > 0.03)]
    far = named.groupby("task", sort=False)[["far_times", "times"]].sum()
    far = far[far["far_times"] > OUTLIERS * far["times"]]
    return [
        *(f"{row['task']}: steps took {100 * abs(row['drift'] - 1):.0f} % {'more' if row['drift'] > 1 else 'less'} "
          "time at the end than at the start; this affects tokens/s, but not speed-ups, which are paired"
          for _, row in drifting.iterrows()),
        *(f"{task}: {row['far_times']} of {row['times']} times are outliers among those of their strategy; something "
          "else ran on the machine" for task, row in far.iterrows()),
        *(f"{row['task']}: repeats of the baseline alone show speed-ups of {100 * (row['noise_floor'] - 1):.2g} %; "
          "a smaller speed-up is noise"
          for _, row in tasks[tasks["noise_floor"].notna()].iterrows()),
    ]


def status(row: "pd.Series[float]") -> str:
    """Return why a cell has no numbers or how many of its samples failed, an empty string if none did."""
    if row["unsupported"]:
        return "not supported"
    total = int(row["samples"] + row["failed"])
    if not total:
        return "not run"
    return f"{int(row['failed'])} of {total} failed" if row["failed"] else ""


def quality_reason(row: "pd.Series[float]") -> str:
    """Return the content of the quality cell of a task without scores: the reason if it is short."""
    reason = str(row["quality_note"])
    return reason if len(reason) <= 12 else "unscored"


def terminal(summary: pd.DataFrame, manifest: Manifest, ranked: pd.DataFrame | None = None,
             run: str = "") -> FittedTable:
    """Return the summary of a run grouped by task, for a terminal; `run` is its name, if there are several.

    With `ranked`, the leaderboard of its only task, the rows are in that order and begin with their rank; more columns
    follow where there is room.
    """
    short, shown = labels(summary["strategy"].unique()), [QUALITY, SPEED, SPEEDUP, TAU, FORWARDS]
    heads = figures([column.title for column in shown], important=[QUALITY.title, SPEEDUP.title],
                    left=[column.title for column in shown if column.ends])
    first, places = list[Head](), dict[str, str]()
    more = [*corpus_columns(summary), *computation_columns(summary)]
    if ranked is not None:
        summary = summary.set_index("strategy", drop=False).loc[ranked["strategy"]].reset_index(drop=True)
        summary = summary.assign(**{name: ranked[name].tolist() for name in ("gain", "gain_low", "gain_high")})
        first, more = [Head(RANK.title, -1, "right")], [GAIN, *(c for c in COLUMNS if c.key in ALSO), *more]
        places = dict(zip(ranked["strategy"], (RANK.text(row) for _, row in ranked.iterrows()), strict=True))
    heads += [Head(column.title, len(shown) + place, "right", extra=True) for place, column in enumerate(more)]
    baseline = short.get(manifest.baseline, manifest.baseline)
    table = FittedTable([*first, Head("strategy"), *heads],
                        title=Text(f"{manifest.model.name} ({manifest.model.dtype})" + (f" in {run}" if run else ""),
                                   style="table.title"),
                        caption=[f"speed-up over {baseline}; 95 % intervals, each for one strategy alone",
                                 *([rule(ranked)] if ranked is not None else []), *notes(summary), *manifest.warnings])
    for task, rows in with_short_tasks(summary).groupby("task", sort=False):
        metric = DASH if rows["quality_note"].iloc[0] else rows["quality_metric"].iloc[0]
        table.add(*("" for _ in first), Text(str(task), style="bold"), Text(metric, style="dim"))
        for _, row in rows.iterrows():
            problem = status(row)
            cells = [column.text(row, 2) for column in (*shown, *more)]
            if row["quality_note"]:
                cells[0] = quality_reason(row)
            if problem and not row["samples"]:
                cells[0] = problem
            name = of_strategy(short[row["strategy"]], problem if row["samples"] else "", row["family"])
            table.add(*(places[row["strategy"]] for _ in first), name, *cells,
                      style="dim" if not row["samples"] else None)
        table.end_section()
    return table


def csv(summary: pd.DataFrame) -> str:
    """Return the whole summary as CSV, with six significant digits; unknown values are empty."""
    return summary.to_csv(index=False, lineterminator="\n", float_format="%.6g")


def markdown(summary: pd.DataFrame) -> str:
    """Return a GitHub table per task with its filled columns, followed by the notes."""
    lines = []
    for task, rows in with_task_names(summary).assign(label=row_labels(summary)).groupby("task", sort=False):
        columns = filled_columns(rows)
        lines += [f"### {task}", "", f"Quality: {rows['quality_note'].iloc[0] or rows['quality_metric'].iloc[0]}", ""]
        lines += [markdown_row(["strategy", "samples", *(column.title for column in columns)]),
                  markdown_row(["---", "---", *("---:" for _ in columns)])]
        for _, row in rows.iterrows():
            samples = f"{row['samples']} ({problem})" if (problem := status(row)) else str(row["samples"])
            lines.append(markdown_row([f"`{row['label']}`", samples, *(column.text(row) for column in columns)]))
        lines.append("")
    below = [*deciding_note(summary), *notes(summary)]
    return "\n".join([*lines, *(f"- {escaped(note)}" for note in below)]).rstrip() + "\n"


def bullets(title: str, lines: Sequence[str]) -> str:
    """Return a titled list in Markdown; empty without lines."""
    return "\n".join([f"### {title}", "", *(f"- {escaped(line)}" for line in lines), "", ""]) if lines else ""


def markdown_row(cells: Sequence[str]) -> str:
    """Return a row of a GitHub table."""
    return f"| {' | '.join(escaped(cell) for cell in cells)} |"


def escaped(text: str) -> str:
    """Return a text that a cell or a line of Markdown shows as it is."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
