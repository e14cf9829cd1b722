"""Compares the speed of a run with the limits of its machine, and finds the break-even batch size of strategies.

The ideal speed-up is tau / (c + v), the speed-up of Leviathan et al. 2023 (arXiv 2211.17192) with a measured v: tau is
the tokens per step, v the cost of the target's forwards in a step and c that of the draft model or head, both in units
of one forward of the target over one token.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from harness.measure.acceptance import ratio, tau_pooled
from harness.measure.raw import NAN, Cell, Raw
from harness.measure.speed import speed_table
from harness.store.folder import Store
from harness.store.schema import ForwardTimes, HeadTimes, Limits

NOISE = 0.97  # v below which several tokens are faster than one by more than noise


def cheaper_than_one(limits: Limits) -> tuple[int, float] | None:
    """Return the number of tokens M whose forward is fastest compared with one token, and that ratio v(M).

    None if no v(M) is below 1 by more than noise. Where one is, the baseline is slower than it need be.
    """
    ratios = [(count, seconds / limits.target.seconds[0])
              for count, seconds in zip(limits.target.tokens, limits.target.seconds, strict=True)]
    fastest = min(ratios, key=lambda pair: pair[1])
    return fastest if fastest[1] < NOISE else None


def limits_table(store: Store, raw: Raw) -> pd.DataFrame:
    """Return one row per (task, strategy) cell with decode steps; empty if the limits of the run were not measured.

    `measured` is the speed-up of the decode steps (above batch size 1: end to end), in total tokens per total seconds.
    `loss` is (ideal - measured) / ideal. `explained` is the share of the measured seconds that forward passes take,
    unknown above batch size 1. `perfect` is the ideal speed-up if every draft were accepted, as deep as the deepest
    one. `oracle` is the speed-up of free drafts that are always right, with the best number of tokens per forward pass
    (`oracle_tokens`). `bound` is tokens per second if weights and KV cache are read at the speed of a memory copy, and
    `of_bound` is the share of it that was reached.
    """
    limits = store.limits()
    if limits is None:
        return pd.DataFrame()
    speeds = speed_table(store, raw)
    rows = [{"task": row["task"], "strategy": row["strategy"], **_cell(limits, cell, row, _batch(raw, row))}
            for row in speeds.to_dict("records") if len((cell := raw.cell(row["task"], row["strategy"])).later)]
    return pd.DataFrame(rows)


def _batch(raw: Raw, row: Mapping[Any, Any]) -> float:
    """Return the mean number of sequences in a forward pass."""
    of_cell = (raw.samples["task"] == row["task"]) & (raw.samples["strategy"] == row["strategy"])
    return max(1.0, float(raw.samples.loc[of_cell, "batch"].mean()))


def _cell(limits: Limits, cell: Cell, speed: Mapping[Any, Any], batch: float) -> dict[str, float]:
    later, one = cell.later[cell.later["seconds"].notna()], limits.target.seconds[0]
    tokens, steps = float(later["tokens"].sum()), len(later)
    target = seconds_of(limits.target, later["forwards"], later["positions"])
    draft = 0.0
    if later["draft_forwards"].any():
        if head := limits.heads.get(speed["strategy"]):
            draft = _head_seconds(head, later)
        else:
            known = limits.draft is not None and speed["strategy"] in limits.drafting
            draft = seconds_of(limits.draft, later["draft_forwards"], later["draft_positions"]) if known else NAN
    cost, tau = (target + draft) / (steps * one), tau_pooled(tokens, steps)
    drafted, deepest = later["drafted"], later["accepted"].max()
    alone = limits.texts == 1
    measured = speed["decode_speedup_totals" if alone else "speedup_totals"]
    ideal, bound = ratio(tau, cost), _bound(limits, speed["strategy"], later, tokens, batch)
    widest = max(zip(limits.target.tokens, limits.target.seconds, strict=True), key=lambda pair: pair[0] / pair[1])
    return {
        "tau": tau, "v": target / (steps * one), "draft_cost": draft / (steps * one),
        "ideal": ideal, "measured": measured, "loss": 1 - measured / ideal,
        "explained": (target + draft) / float(later["seconds"].sum()) if alone else NAN,
        "perfect": (1 + float(np.minimum(drafted, deepest).mean())) / cost if drafted.any() else NAN,
        "oracle": widest[0] * one / widest[1], "oracle_tokens": widest[0],
        "bound": bound,
        "of_bound": speed["decode_tokens_per_second" if alone else "tokens_per_second"] / bound,
    }


def seconds_of(curve: ForwardTimes | None, forwards: "pd.Series[Any]", positions: "pd.Series[Any]") -> float:
    """Return the seconds of these forward passes, interpolated at the mean tokens per forward pass of each step."""
    assert curve is not None
    some = forwards > 0
    seconds = np.interp(positions[some] / forwards[some], curve.tokens, curve.seconds)
    return float((forwards[some] * seconds).sum())


def _head_seconds(head: HeadTimes, later: pd.DataFrame) -> float:
    """Return the seconds of a head's steps: each draft has a first one, and later ones over about as many tokens.

    Those of a sequence's first draft are taken to be as wide as others, because its positions also count the sequence.
    """
    drafts = later[later["draft_forwards"] > 0]
    forwards, begins = drafts["draft_forwards"], drafts["place"] == 1
    widths = drafts["draft_positions"] / forwards
    usual = widths.mask(begins, widths[~begins].median()).fillna(widths)
    grown = np.interp(usual, head.tokens, head.seconds) * (forwards - 1)
    return float((grown + np.where(begins, head.prompt, head.first)).sum())


def _bound(limits: Limits, strategy: str, later: pd.DataFrame, tokens: float, batch: float) -> float:
    """Return tokens per second if weights (once per batch) and KV cache load at the speed of a memory copy."""
    read = 0.0
    if head := limits.heads.get(strategy):
        read += float(later["draft_forwards"].sum()) * head.weight_bytes / batch
    draft = limits.draft if strategy in limits.drafting else None
    for curve, forwards in ((limits.target, later["forwards"]), (draft, later["draft_forwards"])):
        if curve is not None:
            read += float(forwards.sum()) * (curve.weight_bytes / batch + limits.context * curve.token_bytes)
    return ratio(limits.bytes_per_second * tokens, read)


def break_even(stores: Sequence[Store], summaries: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return one row per (task, strategy) with its speed-up at each batch size; empty if there is only one batch size.

    `speedup_at_N` is the speed-up at batch size N, the geometric mean over runs; its 95 % interval (`_low`, `_high`) is
    known if there is one such run. `crossing` is the batch size at which it is 1, interpolated in logarithms, NaN if it
    never is. `falls` tells whether the speed-up is above 1 before that.
    """
    points = dict[tuple[str, str, str], dict[int, list[dict[Any, Any]]]]()
    for store, summary in zip(stores, summaries, strict=True):
        texts = int(store.manifest.config.get("concurrency", 1))
        for row in summary.to_dict("records"):
            if row["speedup"] > 0 and row["strategy"] != store.manifest.baseline:
                key = store.manifest.model.fingerprint, row["task"], row["strategy"]
                points.setdefault(key, {}).setdefault(texts, []).append(row)
    rows = []
    for (_, task, strategy), found in points.items():
        logs = {texts: float(np.mean([np.log(row["speedup"]) for row in found[texts]])) for texts in sorted(found)}
        if len(logs) > 1:
            batch_size, falls = crossing(logs)
            rows.append({"task": task, "strategy": strategy, "crossing": batch_size, "falls": falls,
                         **{f"speedup_at_{texts}": float(np.exp(value)) for texts, value in logs.items()},
                         **{f"speedup_at_{texts}_{end}": found[texts][0][f"speedup_{end}"]
                            if len(found[texts]) == 1 else NAN for texts in logs for end in ("low", "high")}})
    return pd.DataFrame(rows)


def crossing(logs: Mapping[int, float]) -> tuple[float, bool]:
    """Return the lowest batch size at which the log speed-up crosses 0, and whether it falls there.

    Without a crossing, return NaN and whether the log speed-up is always above 0.
    """
    points = sorted(logs.items())
    for (low, before), (high, after) in pairwise(points):
        if before * after < 0 or (after == 0 and before):
            share = before / (before - after)
            return float(np.exp(np.log(low) + share * (np.log(high) - np.log(low)))), before > 0
    return NAN, points[0][1] > 0
