"""The tables of what a judge said: scores with their parts, comparisons, and what it said nothing about."""

from harness.judge.verdicts import Mode
from harness.measure.judged import BEST, CATEGORIES, pair_table, rating_table
from harness.report.tables import Column
from harness.report.texts import Kind


def _counts(what: str) -> tuple[Column, ...]:
    return (
        Column("verdicts", "verdicts", f"{what} wanted of the judge so far.", "count"),
        Column("reused", "reused", f"{what} that took no call: another answer was the same.", "count"),
        Column("unparsed", "unparsed", "Texts of the judge that do not say it in the wanted form; they count in no "
               "mean.", "count"),
        Column("failed", "failed", f"{what} that could not be had.", "count"),
    )


RATINGS = Kind(
    "judge", "Judge: ratings", f"A language model's ratings of the answers, from 1 to {BEST}, in the mean over turns.",
    rating_table, ("score", "turn_1", "turn_2", "noise", "unparsed"), (
        Column("score", "score", "MT-Bench score: mean rating over all turns, with the 95 % interval of a bootstrap "
               "that resamples whole questions.", ends=True),
        Column("turn_1", "turn 1", "Mean rating of the first turns."),
        Column("turn_2", "turn 2", "Mean rating of the second turns."),
        Column("noise", "± judge", "How far two scores of the same answers may lie apart when all are judged anew (95 "
               "%, as many judgings each): a smaller difference may be the judge's."),
        *(Column(kind, kind, f"Mean rating in the category {kind}.") for kind in CATEGORIES),
        *_counts("Ratings"),
        Column("odd", "odd", f"Ratings that are not from 1 to {BEST}; they count as they are.", "count"),
    ))
PAIRS = Kind(
    "judge-pairs", "Judge: comparisons", "A language model's choice between an answer and the baseline's, in both "
    "orders: both must agree, else it is a tie.", pair_table,
    ("win_rate", "wins", "ties", "losses", "disagreed"), (
        Column("win_rate", "win rate", "Share of comparisons won, ties as half, with the 95 % interval of a bootstrap "
               "that resamples whole questions.", ends=True),
        Column("wins", "wins", "Comparisons that the answer won in both orders.", "count"),
        Column("ties", "ties", "Comparisons that were tied, or won by one in each order.", "count"),
        Column("losses", "losses", "Comparisons that the baseline's answer won in both orders.", "count"),
        Column("disagreed", "orders differ", "Comparisons whose two orders do not agree: the judge looks at the place.",
               "share"),
        *_counts("Verdicts"),
    ))
KINDS: tuple[tuple[Kind, Mode], ...] = ((RATINGS, "single"), (PAIRS, "pairwise"))
