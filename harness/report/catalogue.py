"""The catalogue of strategies as a Markdown page, made from the strategies themselves."""

from harness.plugin import Plugin, described
from harness.registry import STRATEGIES

HEAD = """# Catalogue

Made by `python -m harness.report.catalogue > docs/catalogue.md`; a test keeps it true.

| strategy | idea | family | guarantee | needs | paper |
|---|---|---|---|---|---|
"""


def catalogue() -> str:
    """Every built-in strategy with its idea, family, guarantee, needs and paper, then the knobs of each."""
    rows, knobs = [], []
    for name in sorted(STRATEGIES.built_in()):
        cls = STRATEGIES.get(name)
        needs = ", ".join(sorted(cls.needs)) or "–"
        rows.append(f"| `{name}` | {STRATEGIES.idea(name)} | {cls.family} | {cls.guarantee} | {needs} | {cls.paper} |")
        knobs += [f"\n## {name}\n", *_knobs(cls)]
    return HEAD + "\n".join([*rows, *knobs]) + "\n"


def _knobs(cls: type[Plugin]) -> list[str]:
    if not cls.knobs():
        return ["No knobs."]
    lines = ["| knob | default | allowed | sweep | what it does |", "|---|---|---|---|---|"]
    return [*lines, *(f"| `{key}` | {' | '.join(rest)} |" for key, *rest in described(cls))]


if __name__ == "__main__":
    print(catalogue(), end="")
