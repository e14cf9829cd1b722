"""Metrics of stories: coherence and repetition.

Importing this module imports `evaluate` (seconds), so tasks import it when they score.
"""

from harness.nano.story_judge import judge
from harness.scoring.metrics import Gold, SampleMetric
from harness.scoring.variety import diversity, rep_n


class StoryText(SampleMetric):
    """Scores of a story: the share of sound sentences (`coherence`), of sound and new ones (`fresh`), and repetition.

    A sentence is sound if it follows a pattern in known words and contradicts neither the opening nor the text before
    it (`harness.nano.story_judge`), and new if it is no repeat. `rep_4` is seq-rep-4 over the words, `diversity` the
    product of 1 - seq-rep-n for n = 2, 3, 4; a text of fewer than four words has neither. Gold is the facts of the
    opening. A text without a finished sentence has 0 for both shares.
    """

    def sample(self, answers: list[str], gold: Gold) -> dict[str, float]:
        """Return `fresh` and `coherence`, and `rep_4` and `diversity` if they are defined."""
        verdicts = judge(gold, answers[-1])
        words = answers[-1].split()
        scores = {
            "fresh": sum(one.consistent and one.new for one in verdicts) / max(len(verdicts), 1),
            "coherence": sum(one.consistent for one in verdicts) / max(len(verdicts), 1),
            "rep_4": rep_n([words], 4),
            "diversity": diversity([words]),
        }
        return {name: value for name, value in scores.items() if value is not None}
