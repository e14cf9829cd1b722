"""Speed under every published definition, computed from the decode steps: latencies, speed-ups and memory.

docs/measuring.md has the table of the names that other tools give to these figures.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.measure.acceptance import mean_ratio, ratio
from harness.measure.raw import NAN, Cell, Raw
from harness.measure.summary import KEYS, pair_with_baseline
from harness.store.folder import Store
from harness.store.schema import TaskEntry

PERCENTILES = (50, 90, 99)
STOPS = ("eos", "stop", "length", "context", "ended", "unknown")
PAIRED = ["tokens", "seconds", "decode_tokens", "decode_seconds"]  # columns that are compared with the baseline's
FIGURES = ("ttft", "tpot", "itl_token", "itl_burst")


def speed_table(store: Store, raw: Raw) -> pd.DataFrame:
    """Return one row per (task, strategy) cell with samples; times in seconds, memory in bytes, unknown values NaN.

    A turn is what serving benchmarks call a request: `ttft` is the time to its first token, `tpot` the time from its
    first to its last token over the tokens after the first, `itl_burst` the time between two steps that gave tokens,
    `itl_token` the same shared equally among the tokens of the later one; each as a mean and as percentiles.
    `burst_*` count the tokens of a step. A turn whose tokens all came in one step, as a search's do, has a `ttft` and
    none of the others. Ratios to the baseline are over the samples that both have, as in `summarise`.
    """
    rows, frame = [], raw.samples
    cells = dict(iter(frame[frame["status"] == "ok"].groupby(["task", "strategy"], sort=False)))
    for task in store.manifest.tasks:
        base_key = task.spec, store.manifest.baseline
        base, base_cell = cells.get(base_key, frame.iloc[:0]), raw.cell(*base_key)
        for strategy in store.manifest.strategies:
            key = task.spec, strategy.spec
            if key in cells:
                cell = raw.cell(*key)
                pairs = pair_with_baseline(cells[key][[*KEYS, *PAIRED]], base, [*PAIRED, "row"])
                rows.append({
                    "task": task.spec, "strategy": strategy.spec, "samples": len(cells[key]),
                    **_latency(cell), **_rates(cells[key]), **_ratios(pairs),
                    **_matched(pairs, cell, base_cell), **_stops(cell), **_correct(task, cells[key]),
                    "tokens_mean": cells[key]["tokens"].mean(), "peak_bytes": cells[key]["peak_bytes"].max()})
    return pd.DataFrame(rows)


def _latency(cell: Cell) -> dict[str, float]:
    bursts = cell.bursts[cell.bursts["seconds"].notna()]  # a merged run has times of machines of one kind
    first = bursts["first"].to_numpy()
    turn, tokens, seconds = (bursts[name].to_numpy() for name in ("turn", "tokens", "seconds"))
    count = np.bincount(turn, tokens, len(cell.turns))
    wait = np.bincount(turn[~first], seconds[~first], len(cell.turns))
    later = np.bincount(turn[~first], minlength=len(cell.turns)) > 0
    gaps, sizes = seconds[~first], tokens[~first]
    figures = {**_spread("ttft", seconds[first]), **_spread("tpot", wait[later] / (count[later] - 1)),
             **_spread("itl_token", np.repeat(gaps / sizes, sizes)), **_spread("itl_burst", gaps)}
    return {**figures, "burst_mean": float(sizes.mean()) if len(sizes) else NAN,
            **{f"burst_p{p}": value for p, value in _percentiles(sizes).items()}}


def _spread(name: str, values: NDArray[Any]) -> dict[str, float]:
    return {f"{name}_mean": float(values.mean()) if len(values) else NAN,
            **{f"{name}_p{p}": value for p, value in _percentiles(values).items()}}


def _percentiles(values: NDArray[Any]) -> dict[int, float]:
    ends = np.percentile(values, PERCENTILES).tolist() if len(values) else [NAN] * len(PERCENTILES)
    return dict(zip(PERCENTILES, ends, strict=True))


def _rates(ok: pd.DataFrame) -> dict[str, float]:
    """Return tokens per second of all answers together, and the mean over answers."""
    timed = ok[ok["seconds"].notna()]
    sums = timed[["tokens", "seconds", "decode_tokens", "decode_seconds"]].to_numpy(dtype=float)
    tokens, seconds, decode_tokens, decode_seconds = sums.T
    return {
        "tokens_per_second": ratio(tokens.sum(), seconds.sum()),
        "tokens_per_second_mean": mean_ratio(tokens, seconds),
        "decode_tokens_per_second": ratio(decode_tokens.sum(), decode_seconds.sum()),
        "decode_tokens_per_second_mean": mean_ratio(decode_tokens, decode_seconds),
    }


def _ratios(pairs: pd.DataFrame) -> dict[str, float]:
    """Return speed-ups over the baseline, averaged in four ways; `decode_` omits the first step of each turn."""
    figures = dict[str, float]()
    for kind in ("", "decode_"):
        names = [f"{kind}{name}{end}" for end in ("", "_base") for name in ("tokens", "seconds")]
        timed = pairs[(pairs[names] > 0).all(axis=1)]
        tokens, seconds, base_tokens, base_seconds = (timed[name].to_numpy(dtype=float) for name in names)
        speed, base = tokens / seconds, base_tokens / base_seconds
        figures |= {
            f"{kind}speedup_geometric": float(np.exp(np.log(speed / base).mean())) if len(timed) else NAN,
            f"{kind}speedup_totals": ratio(tokens.sum() / seconds.sum(), base_tokens.sum() / base_seconds.sum())
            if len(timed) else NAN,
            f"{kind}speedup_arithmetic": float((speed / base).mean()) if len(timed) else NAN,
            f"{kind}speedup_macro": float(speed.mean() / base.mean()) if len(timed) else NAN,
        }
    known = pairs[pairs[["tokens", "tokens_base"]].notna().all(axis=1)]
    return {**figures, "same_length": ratio((known["tokens"] == known["tokens_base"]).sum(), len(known))}


def _matched(pairs: pd.DataFrame, cell: Cell, base: Cell) -> dict[str, float]:
    """Return the speed-up at equal length: each turn counts up to the length of the shorter of the two answers.

    The times of a sample's turns are added up. If a search yields all tokens at its end, all its time counts as the
    time of the first token. `matched_tokens` is the share of the strategy's tokens that count.
    """
    arrivals, base_arrivals = _Arrivals(cell), _Arrivals(base)
    left, right = _turns(pairs["row"], arrivals), _turns(pairs["row_base"], base_arrivals)
    both = (left >= 0) & (right >= 0)
    count = np.where(both, np.minimum(arrivals.tokens[left], base_arrivals.tokens[right]), 0)
    pair = np.broadcast_to(np.arange(len(pairs))[:, None], both.shape)
    some = count > 0
    size = len(pairs)
    seconds = np.bincount(pair[some], arrivals.until(left[some], count[some]), size)
    base_seconds = np.bincount(pair[some], base_arrivals.until(right[some], count[some]), size)
    timed = (seconds > 0) & (base_seconds > 0)
    logs = np.log(base_seconds[timed] / seconds[timed])
    return {"speedup_matched": float(np.exp(logs.mean())) if timed.any() else NAN,
            "matched_tokens": ratio(float(count.sum()), float(pairs["tokens"].sum()))}


class _Arrivals:
    """The arrival time of each token of a cell, in seconds from the start of its turn."""

    def __init__(self, cell: Cell) -> None:
        bursts, turns = cell.bursts.fillna({"seconds": 0.0}), len(cell.turns)
        self.turns = cell.turns
        self.tokens = np.append(np.bincount(bursts["turn"], bursts["tokens"], turns), 0).astype(int)
        waits = np.bincount(bursts["turn"], bursts["seconds"], turns)
        self.before = np.append(0, self.tokens[:-1].cumsum())
        self.began = np.append(0, waits.cumsum())
        self.count, self.time = bursts["tokens"].to_numpy().cumsum(), bursts["seconds"].to_numpy().cumsum()

    def until(self, turn: NDArray[Any], count: NDArray[Any]) -> NDArray[np.float64]:
        """Return the seconds until each turn had `count` tokens, from 1 to the turn's number of tokens."""
        burst = np.searchsorted(self.count, self.before[turn] + count)
        return np.asarray(self.time[burst] - self.began[turn])


def _turns(rows: "pd.Series[Any]", arrivals: _Arrivals) -> NDArray[Any]:
    """Return the turns of the samples in `rows`, (pairs, turns), padded with -1."""
    sample = arrivals.turns["sample"].to_numpy()
    start, end = np.searchsorted(sample, rows), np.searchsorted(sample, rows, side="right")
    offsets = np.arange(max(1, (end - start).max(initial=0)))
    turns = start[:, None] + offsets
    return np.where(turns < end[:, None], turns, -1)


def _stops(cell: Cell) -> dict[str, float]:
    """Return the share of turns with each stop reason."""
    shares = cell.turns["stop"].value_counts(normalize=True)
    return {f"stop_{reason}": float(shares.get(reason, 0.0)) if len(cell.turns) else NAN for reason in STOPS}


def _correct(task: TaskEntry, ok: pd.DataFrame) -> dict[str, float]:
    """Return total seconds, forward passes and tokens per correct answer; NaN if scores are not just 0 and 1."""
    column = f"score_{task.headline}"
    scored = ok.dropna(subset=[column]) if column in ok else ok.iloc[:0]
    if scored.empty or not scored[column].isin([0, 1]).all():
        return {"correct": NAN, "seconds_per_correct": NAN, "forwards_per_correct": NAN, "tokens_per_correct": NAN}
    right = float(scored[column].sum())
    return {"correct": right, **{f"{name}_per_correct": ratio(float(scored[name].sum(skipna=False)), right)
                                 for name in ("seconds", "forwards", "tokens")}}
