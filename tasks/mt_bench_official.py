"""MT-Bench with the temperatures that FastChat sets for each category: comparable with published figures.

A row is one of `mt_bench`, and so are the prompts:

    {"question_id": 81, "category": "writing",
     "turns": ["Write a short letter to a friend.", "Now make it rhyme."]}

Only plain sampling (`-s temperature` with its default knob) uses these temperatures: 0.7 for writing and roleplay, 0.1
for stem and humanities, 0 for the rest. Every other strategy decodes as in `mt_bench`.
"""

from dataclasses import dataclass, replace

from harness.plugins.data import DataSource
from harness.plugins.task import Example
from tasks.mt_bench import MTBench

# Facts from lm-sys/FastChat, fastchat/llm_judge/common.py, `temperature_config`; gen_model_answer.py has the default.
TEMPERATURES = {"writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0, "reasoning": 0.0,
                "stem": 0.1, "humanities": 0.1}
OTHER = 0.7


@dataclass(frozen=True)
class MTBenchOfficial(MTBench):
    """The 80 questions of `mt_bench`, each with the temperature of its category."""

    def examples(self, data: DataSource) -> list[Example]:
        """Return the questions in published order."""
        return [replace(one, temperature=TEMPERATURES.get(one.category, OTHER)) for one in super().examples(data)]
