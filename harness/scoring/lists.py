"""The metric of lists of names.

Importing this module imports `evaluate` (seconds), so tasks import it when they score.
"""

from harness.nano.lists import right
from harness.scoring.metrics import Gold, SampleMetric


class RightList(SampleMetric):
    """Scores 1 for any right answer: `right`; `length` is 1 for as many names as a right answer has.

    Gold is the `check` of a problem of `harness.nano.lists`.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return `right` and `length`."""
        found = [name.strip() for name in answers[-1].split(",")]
        return {"right": float(right(gold, found)), "length": float(len(found) == len(gold["names"]))}
