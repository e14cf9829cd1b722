"""The catalogue of strategies as a Markdown page, made from the strategies themselves."""

from pathlib import Path

import pandas as pd

from harness.measure.summary import samples, summarise
from harness.plugins.plugin import Plugin, described
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Over
from harness.report.tables import labels
from harness.store.folder import Store

RESULTS = Path(__file__).resolve().parents[2] / "results"

HEAD = """# Catalogue

Made by `python -m harness.report.catalogue > docs/catalogue.md`; a test keeps it true.

| strategy | idea | family | guarantee | needs | paper |
|---|---|---|---|---|---|
"""


MEASURED = """
## Tokens and forwards of each

Each cell: tau, the tokens committed by a step after the first, and target forwards for 100 tokens; nano, greedy, cold,
default knobs, {limit} problems a task (`decodebench run --config speculative.toml`; counts, the same on every machine).
The last column is the share of answers that are exactly greedy's: all of them for what is lossless.

"""

NOTES = """
Where this order is not the literature's:

- At temperature 0, block verification keeps what token verification keeps, and `staged` saves forwards of the draft
  model, not of the target: both equal `speculative` here.
- `token_recycling` (2.7 on Spec-Bench), `lookahead` and `suffix_decoding` start empty with every text, and answers here
  have 10 to 60 tokens; published figures keep tables across questions (`warm=true`) and have answers of hundreds.
- `suffix_decoding` drafts as many tokens as it has matched, `prompt_lookup` ten after any match; where answers copy,
  the second gains more. `suffix_automaton` asks for five matched tokens and has no second drafter unless `fallback` is
  set.
- `rest` is better than its 1.8 on Spec-Bench: its store holds texts of the same kinds as the questions.
- tau of `pearl` counts barriers. Drafting happens during them, so it stands for more speed than the same tau elsewhere.
- Rules that accept more than greedy's token gain a tenth over `speculative` or less, a fifth on chat: where nano-draft
  is wrong, its token is seldom among nano's likely ones. `fly` drafts longer chains. `synthetic_acceptance` accepts by
  coin, to show what an engine makes of a given tau.
- `speculative_contrastive` keeps the contrastive law, which is not greedy's; no text here is longer than the window of
  `streaming`.
- `swift` and `layer_skip` draft up to 25 and 8 tokens, each of which costs more than half a target forward: the
  highest tau is not the highest speed.
"""

QUALITY = """
## Quality of those that change the text

The task's own score on nano, {limit} problems a task, then of the stories their diversity and tokens, and forwards for
100 tokens over all tasks, where answers decoded together count each (`decodebench run --config quality.toml`; the same
on every machine). Half the width of a 95 % interval is about 0.15: compare families, not neighbours.

"""

EFFECTS = """
What is known shows: sampling loses accuracy where one answer is right and is as varied as the references on stories
(diversity 0.76), greedy and beams repeat themselves; several samples and one answer beat one sample; penalties and
anti-repetition cure stories and cannot copy; contrast changes what is said, for better only on stories. What does not
show on nano: larger beams neither shorten its answers nor repeat more (stories run into the limit whatever the beam),
self-consistency does not pass greedy, which is rarely wrong where sampling is right, and `knn_lm` gains nothing in
accuracy. `superposed` reads on for all its drafts after the first has ended.
"""

CONSTRAINED = """
Stories that must use two to four given words, {limit} problems (`decodebench run --config constrained.toml`): the share
of the words in the text, of texts with all of them, of sound sentences, and the first times the third, which is the
task's score.

| strategy | words | all of them | sound | score | fwd |
|---|---:|---:|---:|---:|---:|"""


def catalogue() -> str:
    """Every built-in strategy with its idea, family, guarantee, needs and paper, its counts, and the knobs of each."""
    rows, knobs = [], []
    for name in sorted(STRATEGIES.built_in()):
        cls = STRATEGIES.get(name)
        needs = ", ".join(sorted(cls.needs)) or "–"
        rows.append(f"| `{name}` | {STRATEGIES.idea(name)} | {cls.family} | {cls.guarantee} | {needs} | {cls.paper} |")
        knobs += [f"\n## {name}\n", *_knobs(cls)]
    return HEAD + "\n".join([*rows, *measured(), *quality(), *constrained(), *knobs]) + "\n"


def measured() -> list[str]:
    """tau and forwards of the committed run over all tasks, the methods with the fewest forwards first."""
    store = Store.open(RESULTS / "speculative")
    table = summarise(store)
    tasks, order = list(table["task"].unique()), table.groupby("strategy")["forwards_per_token"].mean().sort_values()
    cells = table.set_index(["strategy", "task"])
    names = [task.removeprefix("nano_") for task in tasks]
    lines = [MEASURED.format(limit=int(table["samples"].max())).rstrip("\n"), "",
             f"| strategy | {' | '.join(names)} | same |", "|---" * (2 + len(tasks)) + "|"]
    short = labels(order.index)
    for spec in order.index:
        found = [cells.loc[(spec, task)] for task in tasks]
        same = sum(cell["same_as_baseline"] * cell["samples"] for cell in found) / sum(c["samples"] for c in found)
        counts = [f"{cell['tau_pooled']:.2f} · {100 * cell['forwards_per_token']:.0f}" for cell in found]
        lines.append(f"| `{short[spec]}` | {' | '.join([*counts, f'{100 * same:.0f} %'])} |")
    return [*lines, NOTES.rstrip("\n")]


def quality() -> list[str]:
    """Scores of the committed run over all tasks, in the order of its strategies."""
    table, texts = (pd.read_csv(RESULTS / "quality" / f"{name}.csv") for name in ("summary", "texts"))
    tasks, cells = list(table["task"].unique()), table.set_index(["strategy", "task"])
    stories = texts[texts["task"] == "nano_story"].set_index("strategy")["diversity"].astype(float).to_dict()
    heads = [*(task.removeprefix("nano_") for task in tasks), "diversity", "tokens", "fwd"]
    lines = [QUALITY.format(limit=int(table["samples"].max())).rstrip("\n"), "",
             f"| strategy | {' | '.join(heads)} |", "|---" + "|---:" * len(heads) + "|"]
    for spec, short in labels(map(str, table["strategy"].unique())).items():
        found = [cells.loc[(spec, task)] for task in tasks]
        forwards = sum(cell["forwards_per_token"] for cell in found) / len(found)
        tokens = float(found[tasks.index("nano_story")]["tokens_mean"])
        shown = [*(f"{cell['quality']:.2f}" for cell in found), f"{stories[spec]:.2f}", f"{tokens:.0f}",
                 f"{100 * forwards:.0f}"]
        lines.append(f"| `{short}` | {' | '.join(shown)} |")
    return [*lines, EFFECTS.rstrip("\n")]


def constrained() -> list[str]:
    """Coverage and quality of the committed run under constraints."""
    store = Store.open(RESULTS / "constrained")
    table, each = summarise(store), samples(store).groupby("strategy")
    names = ("coverage", "all", "sound", "covered_sound")
    scores = {name: each[f"score_{name}"].mean().to_dict() for name in names}
    forwards = dict(zip(table["strategy"], table["forwards_per_token"], strict=True))
    lines = [CONSTRAINED.format(limit=int(table["samples"].max()))]
    for spec, short in labels(map(str, table["strategy"])).items():
        shown = [*(f"{scores[name][spec]:.2f}" for name in names), f"{100 * forwards[spec]:.0f}"]
        lines.append(f"| `{short}` | {' | '.join(shown)} |")
    return lines


def _knobs(cls: type[Plugin]) -> list[str]:
    over = [f"Over any other strategy, `{cls.usual}` where none is named.\n"] if issubclass(cls, Over) else []
    if not cls.knobs():
        return [*over, "No knobs."]
    lines = [*over, "| knob | default | allowed | sweep | what it does |", "|---|---|---|---|---|"]
    return [*lines, *(f"| `{key}` | {' | '.join(rest)} |" for key, *rest in described(cls))]


if __name__ == "__main__":
    print(catalogue(), end="")
