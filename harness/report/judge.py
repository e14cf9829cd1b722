"""The table of what a judge said: scores with their parts, the judge's own noise, and what it said nothing about."""

from harness.measure.judged import BEST, CATEGORIES, judge_table
from harness.report.tables import Column
from harness.report.texts import Kind

JUDGE = Kind(
    "judge", "Judge", f"What a language model said of the answers: ratings from 1 to {BEST} in the mean over turns, "
    "and the share of comparisons with the baseline that were won (a tie is half a win; both orders must agree, else "
    "it is a tie).", judge_table, ("score", "turn_1", "turn_2", "noise", "unparsed", "win_rate", "disagreed"), (
        Column("score", "score", "MT-Bench score: mean rating over all turns, with the 95 % interval of a bootstrap "
               "that resamples whole questions.", ends=True),
        Column("turn_1", "turn 1", "Mean rating of the first turns."),
        Column("turn_2", "turn 2", "Mean rating of the second turns."),
        Column("noise", "± judge", "How far two scores of the same answers may lie apart when all are judged anew (95 "
               "%, as many judgings each): a smaller difference may be the judge's."),
        *(Column(kind, kind, f"Mean rating in the category {kind}.") for kind in CATEGORIES),
        Column("verdicts", "ratings", "Ratings wanted of the judge so far.", "count"),
        Column("reused", "reused", "Ratings taken over from an equal answer to the same question.", "count"),
        Column("unparsed", "unparsed", "Texts of the judge without a rating; they count in no mean.", "count"),
        Column("failed", "failed", "Ratings that could not be had.", "count"),
        Column("odd", "odd", f"Ratings that are not from 1 to {BEST}; they count as they are.", "count"),
        Column("win_rate", "win rate", "Share of comparisons won, ties as half, with its 95 % interval.", ends=True),
        Column("wins", "wins", "Comparisons that the answer won in both orders.", "count"),
        Column("ties", "ties", "Comparisons that were tied, or won by one in each order.", "count"),
        Column("losses", "losses", "Comparisons that the baseline's answer won in both orders.", "count"),
        Column("disagreed", "orders differ", "Comparisons whose two orders do not agree: the judge looks at the place.",
               "share"),
        Column("pairs_reused", "pairs reused", "Verdicts of comparisons that needed no call.", "count"),
        Column("pairs_unparsed", "pairs unparsed", "Verdicts of comparisons without a winner; they count in no mean.",
               "count"),
        Column("pairs_failed", "pairs failed", "Verdicts of comparisons that could not be had.", "count"),
    ))
