"""The metric of texts that tell facts of the embedded records."""

from harness.nano.records import PHRASES
from harness.scoring.metrics import Gold, SampleMetric
from harness.scoring.slots import slot_errors


class FactsOnly(SampleMetric):
    """Scores a text: `faultless`, 1 without an error, and the numbers of `missing`, `repeated` and `wrong` facts.

    Gold is `{"slots": [[name, value], ...]}`.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return the four scores."""
        errors = slot_errors(answers[-1], gold["slots"], PHRASES)
        return {"faultless": float(not sum(errors)), **{name: float(count) for name, count in errors._asdict().items()}}
