"""The catalogue of strategies as a Markdown page, made from the strategies themselves."""

from harness.plugin import Plugin, Scalar
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
    default = cls()
    lines = ["| knob | default | range | sweep | what it does |", "|---|---|---|---|---|"]
    for key, about in cls.knobs().items():
        allowed = ", ".join(map(_text, about.choices)) or (
            f"{_text(about.low)} … {_text(about.high)}" if about.low is not None else "true, false")
        sweep = ", ".join(map(_text, about.sweep)) or "–"
        lines.append(f"| `{key}` | {_text(getattr(default, key))} | {allowed} | {sweep} | {about.help} |")
    return lines


def _text(value: Scalar | None) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    print(catalogue(), end="")
