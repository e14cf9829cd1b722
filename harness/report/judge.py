"""The tables of a judge's verdicts: ratings, comparisons, and counts of verdicts without a result."""

from harness.judge.verdicts import Mode
from harness.measure.judged import BEST, CATEGORIES, pair_table, rating_table
from harness.report.tables import Column
from harness.report.texts import Kind


def _counts(name: str) -> tuple[Column, ...]:
    """Return the columns that count verdicts, which are called `name` in their explanations."""
    return (
        Column("verdicts", "verdicts", f"{name} so far.", "count"),
        Column("reused", "reused", f"{name} without a request of their own, because another answer was the same.",
               "count"),
        Column("unparsed", "unparsed", "Replies of the judge that are not in the required format; no mean includes "
               "them.", "count"),
        Column("failed", "failed", f"{name} whose requests failed.", "count"),
    )


RATINGS = Kind(
    "judge", "Judge: ratings", f"A language model's ratings of the answers, from 1 to {BEST}, as means over turns.",
    rating_table, ("score", "turn_1", "turn_2", "noise", "unparsed"), (
        Column("score", "score", "MT-Bench score: mean rating over all turns, with the 95 % interval of a bootstrap "
               "that resamples whole questions.", ends=True),
        Column("turn_1", "turn 1", "Mean rating of the first turns."),
        Column("turn_2", "turn 2", "Mean rating of the second turns."),
        Column("noise", "± judge", "Expected difference of two scores of the same answers if all are judged again (95 "
               "%, same number of repeats): a smaller difference may be due to the judge."),
        *(Column(kind, kind, f"Mean rating in the category {kind}.") for kind in CATEGORIES),
        *_counts("Ratings"),
        Column("odd", "odd", f"Ratings outside 1 to {BEST}; means include them unchanged.", "count"),
    ))
PAIRS = Kind(
    "judge-pairs", "Judge: comparisons", "A language model's choice between an answer and the baseline's, in both "
    "orders; if the two choices disagree, it is a tie.", pair_table,
    ("win_rate", "wins", "ties", "losses", "disagreed"), (
        Column("win_rate", "win rate", "Share of comparisons won, ties as half, with the 95 % interval of a bootstrap "
               "that resamples whole questions.", ends=True),
        Column("wins", "wins", "Comparisons that the answer won in both orders.", "count"),
        Column("ties", "ties", "Comparisons that were tied, or won by one in each order.", "count"),
        Column("losses", "losses", "Comparisons that the baseline's answer won in both orders.", "count"),
        Column("disagreed", "orders differ", "Comparisons in which the two choices disagree: a sign of position bias.",
               "share"),
        *_counts("Verdicts"),
    ))
KINDS: tuple[tuple[Kind, Mode], ...] = ((RATINGS, "single"), (PAIRS, "pairwise"))
