"""RoPE extension: the perplexity of long texts and the needles found in them, under each rule that scales positions.

Peng et al. 2023 (arXiv 2309.00071, §4) compare the rules so; Pal et al. 2023 (arXiv 2308.10882) find that tasks tell
more than perplexity. The model reads stories in a row with each rule (`--rope`) and factor, and without: `ppl N` is the
perplexity of the tokens up to N after those of the column before, so the first column shows what a rule costs short
texts. Then greedy answers `nano_needle`, or the task of `-t` with a knob `length`, at each of the `LENGTHS`: `at N` is
its score with N tokens. Beside them is a second model as it is (`--draft`), by default `nano-long` for nano. The runs
are in the study's folder, and are resumed.
"""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, ClassVar

from harness import nano
from harness.errors import UserError
from harness.measure.summary import samples
from harness.models.rope import LINEAR, NTK, YARN
from harness.nano.corpus import problems
from harness.plugins.registry import TASKS
from harness.plugins.spec import Spec
from harness.plugins.study import Setting, Study, knob
from harness.run.answered import answered, score_column
from harness.run.loading import find_device, load_target
from harness.store.config import RunConfig

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

RULES, FACTORS = (NTK, LINEAR, YARN), (4, 8)
TASK, LENGTHS, BATCH = "nano_needle:depths=3,needles=4", (128, 512, 1024), 4
TICKS = (2, 5, 10, 20, 50, 100, 200, 500)
FIRST, SHORTEST = 256, 100  # tokens of the first block, each next one being as long as all before, and of a story


@dataclass(frozen=True)
class RopeExtension(Study):
    """A row for each rule and factor, and for the second model."""

    factor: int = knob(0, "factor of all rules [0 for 4 and 8]", low=0, high=64, sweep=(2, 4, 8, 16))
    original: int | None = knob(None, "tokens of the longest training text [400 for nano, else by its configuration]",
                                low=8, high=1 << 20)
    length: int = knob(2048, "tokens of a text whose perplexity is measured", low=FIRST, high=1 << 14)
    texts: int = knob(3, "texts whose perplexity is measured", low=1, high=100)

    paper: ClassVar[str] = "https://arxiv.org/abs/2309.00071"
    heeds: ClassVar[frozenset[str]] = frozenset({"draft", "tasks", "limit"})

    def table(self, setting: Setting) -> "pd.DataFrame":
        """Measure each rule, and then the second model."""
        import pandas as pd

        if len(setting.config.tasks) > 1:
            raise UserError("rope_extension shows one task: give -t once.")
        task = (*setting.config.tasks, TASK)[0]
        config = replace(setting.config, device=find_device(setting.config.device), draft=None,
                         tasks=tuple(with_length(task, length) for length in LENGTHS))
        second = setting.config.draft or (nano.LONG if config.model == nano.NANO else None)
        rows = [self._row(setting, config, "as trained")]
        end = self._trained(config)
        rows += [self._row(setting, replace(config, rope=f"{rule}{end}"), rule) for rule in self.rules()]
        if second:
            rows.append(self._row(setting, replace(config, model=second), second))
        return pd.DataFrame(rows)

    def rules(self) -> list[str]:
        """Return each rule with its factor, as in `--rope`."""
        return [f"{rule}:{factor}" for rule in RULES for factor in ((self.factor,) if self.factor else FACTORS)]

    def _trained(self, config: RunConfig) -> str:
        """Return the length of the training texts, as behind a rule; empty for that of the configuration."""
        original = self.original or (nano.TRAINED if config.model == nano.NANO else None)
        return f":{original}" if original else ""

    def _row(self, setting: Setting, config: RunConfig, label: str) -> dict[str, object]:
        setting.say(f"{label}: perplexity")
        row: dict[str, object] = {"positions": label}
        row |= {f"ppl {end}": value for end, value in self.perplexities(config).items()}
        store = answered(setting._replace(config=config), self.name, label, strategies=("greedy",), concurrency=BATCH)
        frame = samples(store)
        for task, length in zip(store.manifest.tasks, LENGTHS, strict=True):
            row[f"at {length}"] = frame[frame["task"] == task.spec][score_column(self.name, task, frame)].mean()
        return row

    def perplexities(self, config: RunConfig) -> dict[int, float]:
        """Return the perplexity of each block of the texts, by the tokens up to its end."""
        from harness.models.likelihood import score_answers

        model, ends, count = load_target(config), blocks(self.length), self.length // SHORTEST + 1
        lines = [f"{one.turns[0]}{one.answers[0]}" for one in problems("story", "dev", count * self.texts)]
        sums = [0.0] * len(ends)
        for number in range(self.texts):
            some = "\n".join(lines[number * count:(number + 1) * count])
            ids = list(model.tokenizer(some, verbose=False)["input_ids"])
            if (most := min(len(ids), model.engine.max_len)) < self.length:
                raise UserError(f"rope_extension: {config.model} can read {most} tokens here: give a smaller length.")
            ids = ids[:self.length]
            text = ((ids[0],), tuple(ids[1:]))
            surprisal = score_answers(model, [text])[text].surprisal
            for place, (first, last) in enumerate(pairwise((0, *ends))):
                block = surprisal[max(0, first - 1):last - 1]
                sums[place] += sum(block) / len(block) / self.texts
        return {end: math.exp(value) for end, value in zip(ends, sums, strict=True)}

    def plot(self, table: "pd.DataFrame", axes: "Axes") -> None:
        """Draw the perplexity by tokens read."""
        names = [name for name in table.columns if name.startswith("ppl ")]
        ends = [int(name.split()[1]) for name in names]
        for number, row in table.iterrows():
            values = [row[name] for name in names]
            axes.plot(ends, values, ":" if number == 0 else "-", marker=".", label=row["positions"])
        axes.set(xlabel="tokens read", ylabel="perplexity of the last block", xscale="log", yscale="log")
        axes.set_xticks(ends, [f"{end:,}" for end in ends])
        axes.minorticks_off()
        top = max(map(float, table[names].max()))
        axes.set_yticks([tick for tick in TICKS if tick <= top], [str(tick) for tick in TICKS if tick <= top])
        axes.legend(frameon=False, fontsize=8)


def blocks(length: int) -> list[int]:
    """Return the ends of blocks, each as long as all before it, up to `length` tokens."""
    ends = [FIRST]
    while 2 * ends[-1] <= length:
        ends.append(2 * ends[-1])
    return ends


def with_length(spec: str, length: int) -> str:
    """Return the spec of a task at a length; raises `UserError` for one without that knob."""
    if "length" not in TASKS.get(Spec.parse(spec).name).knobs():
        raise UserError(f"rope_extension needs a task with a knob 'length', such as nano_needle, not {spec}.")
    return TASKS.build(f"{spec}{',' if ':' in spec else ':'}length={length}").spec()
