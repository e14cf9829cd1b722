"""What a strategy does to the baseline's answers, as measured; a promise is called one."""

import pandas as pd

TIE = 0.01       # difference of two logits up to which another token is a tie in float32
TIES = {"float16": 2 ** -4, "bfloat16": 2 ** -1}  # four steps between neighbours of 16 to 32, as logits are
BADGES = {
    "baseline": "The strategy that all others are compared with.",
    "same answers": "All answers have the baseline's tokens.",
    "same up to ties": "Answers differ only where two tokens' logits are equal up to the precision of the numbers.",
    "same distribution": "Promised, not measured here: samples have the distribution of plain sampling. "
                         "decodebench verify tests that.",
    "not as promised": "Answers must be those of the baseline, and are not.",
    "changed": "Other answers than the baseline's.",
    "not compared": "No answers, or none with known tokens.",
}


def tie_of(dtype: str) -> float:
    """Return the difference of two logits up to which another token is a tie in this dtype."""
    return TIES.get(dtype, TIE)


def kept(rows: pd.DataFrame, tie: float) -> "pd.Series[bool]":
    """Return whether the answers of each row are the baseline's, except where two logits are at most `tie` apart."""
    tied = (rows["parted"] > 0) & (rows["margin"] <= tie)
    return (rows["guarantee"] != "changes-output") & ((rows["same_as_baseline"] == 1) | tied)


def badge(rows: pd.DataFrame, is_base: bool, tie: float) -> str:
    """Return the badge of a strategy from its rows of a summary, one for each task; see `BADGES`."""
    rows = rows[rows["same_as_baseline"].notna()]
    if is_base:
        return "baseline"
    if rows.empty:
        return "not compared"
    if (rows["same_as_baseline"] == 1).all():
        return "same answers"
    if kept(rows, tie).all():
        return "same up to ties"
    promise = rows["guarantee"].iloc[0]
    return {"lossless": "not as promised", "distribution-preserving": "same distribution"}.get(promise, "changed")
