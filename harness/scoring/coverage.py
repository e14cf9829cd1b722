"""Metrics of stories that must contain given words: how many they contain, and how coherent they are.

Importing this module imports `evaluate` (seconds), so tasks import it when they score.
"""

import re
from collections.abc import Sequence

from harness.nano.story_judge import judge
from harness.scoring.metrics import Gold, SampleMetric


def contains(text: str, phrase: str) -> bool:
    """Return whether `phrase` occurs in `text` as whole words, also capitalised as at the start of a sentence."""
    pattern = re.escape(phrase)
    if phrase[0].isalpha():
        pattern = f"[{phrase[0].lower()}{phrase[0].upper()}]{re.escape(phrase[1:])}"
    return re.search(rf"(?<!\w){pattern}(?!\w)", text) is not None


def coverage(text: str, clauses: Sequence[Sequence[str]]) -> float:
    """Return the share of clauses of which `text` contains a phrase; 1 if there are none."""
    met = [any(contains(text, phrase) for phrase in clause) for clause in clauses]
    return sum(met) / len(met) if met else 1.0


class CoveredStory(SampleMetric):
    """Scores of a story that must contain given words: `coverage`, `all`, `sound`, and `covered_sound`.

    `coverage` is the share of the words that the text contains, `all` is 1 if it contains all of them. `sound` is
    the share of finished sentences that follow a pattern in known words, without a contradiction or a repeat
    (`harness.nano.story_judge`), 0 for a text without one. `covered_sound` is `coverage` times `sound`. Gold
    is the facts of the opening and `wanted`, the words.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return all four scores."""
        covered = coverage(answers[-1], [[word] for word in gold["wanted"]])
        verdicts = judge(gold, answers[-1])
        sound = sum(one.consistent and one.new for one in verdicts) / max(len(verdicts), 1)
        return {"covered_sound": covered * sound, "coverage": covered, "all": float(covered == 1.0), "sound": sound}
