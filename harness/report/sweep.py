"""The results of a sweep: the default, the best setting for all tasks and per task, and the effect of each knob."""

from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.text import Text

from harness.plugins.spec import Spec
from harness.plugins.task_names import task_names
from harness.report.tables import DASH, markdown_row
from harness.report.terminal import FittedTable, Head, figures
from harness.sweep.grid import changes
from harness.sweep.sweep import Aim, Choice, Knob, StrategySweep, Sweep

AIMS = {"quality": "quality", "speed": "speed-up over the baseline", "forwards": "tokens per forward pass"}
TITLES = ("task", "setting", "dev", "held-out", "gain over the default")
KNOBS = ("knob", "tried", "range", "effect")


def terminal(sweep: Sweep) -> Group:
    """Return two tables per strategy, settings and knobs, and the notes."""
    parts: list[FittedTable | Text] = []
    for swept in sweep.swept:
        table = FittedTable([*map(Head, TITLES[:2]), *figures(TITLES[2:], TITLES[:2:-1], TITLES[-1:])],
                            title=Text(_title(swept)), caption=_facts(swept))
        for cells in _rows(swept):
            table.add(*cells)
        knobs = FittedTable([Head(title, 0 if title == "range" else None) for title in KNOBS])
        for knob in swept.knobs:
            cells = _knob_cells(knob, swept.aim)
            knobs.add(*cells[:-1], Text(cells[-1], style="red" if knob.alive is False else ""))
        parts += [table, knobs]
    return Group(*parts, *(Text(text, style="yellow" if text.startswith("Warning") else "") for text in notes(sweep)))


def markdown(sweep: Sweep) -> str:
    """Return the tables and notes as GitHub Markdown."""
    lines = []
    for swept in sweep.swept:
        lines += [f"### `{swept.spec}`", "", _title(swept), ""]
        lines += [markdown_row(TITLES), markdown_row(["---"] * len(TITLES))]
        lines += [markdown_row(cells) for cells in _rows(swept)]
        lines += ["", *(f"- {text}" for text in _facts(swept)), ""]
        lines += [markdown_row(KNOBS), markdown_row(["---"] * len(KNOBS))]
        lines += [markdown_row(_knob_cells(knob, swept.aim)) for knob in swept.knobs] + [""]
    return "\n".join([*lines, *(f"- {text}" for text in notes(sweep))]).rstrip() + "\n"


def notes(sweep: Sweep) -> list[str]:
    """Return the notes on a sweep, first a warning for each knob without any effect."""
    warnings = [_warning(swept, knob) for swept in sweep.swept for knob in swept.knobs if knob.alive is False]
    left_out = [f"{spec} was left out: {reason}" for swept in sweep.swept for spec, reason in swept.left_out.items()]
    skipped = [f"{spec} was not swept: {reason}" for spec, reason in sweep.skipped.items()]
    sizes = ", ".join(f"{sweep.dev[task]} + {sweep.held_out[task]} of {name}"
                      for task, name in task_names(sweep.dev).items())
    return [*warnings, *left_out, *skipped, *sweep.failed,
            f"settings are selected on dev examples and reported on held-out ones ({sizes}); at most {sweep.budget} "
            "settings per strategy; 95 % intervals"]


def _changes(spec: str, default: str) -> str:
    return changes(Spec.parse(spec).knobs, Spec.parse(default).knobs)


def _warning(swept: StrategySweep, knob: Knob) -> str:
    others = "the only values that were tried" if not knob.looked else "and at 1 other value" if knob.looked == 1 else \
        f"and at {knob.looked} other values"
    return (f"Warning: knob '{knob.name}' of {Spec.parse(swept.spec).name} has no effect: "
            f"{', '.join(knob.tried[1:])} gave the same tokens and counts as {knob.tried[0]} on {knob.samples} "
            f"sample{'s' * (knob.samples > 1)} ({knob.tokens:,} tokens) with the other knobs at their defaults, "
            f"{others}")


def _title(swept: StrategySweep) -> str:
    return (f"{Spec.parse(swept.spec).name}: {swept.settings} of {swept.possible:,} settings, "
            f"by {AIMS[swept.aim]}")


def _rows(swept: StrategySweep) -> Iterator[list[str]]:
    """Yield the cells of the table of settings: three rows per task."""
    names = task_names(choice.task for choice in swept.default)
    for default, fixed, best in zip(swept.default, swept.fixed, swept.best, strict=True):
        rows: Sequence[tuple[str, Choice]] = (("default", default), ("best fixed", fixed), ("best here", best))
        for index, (label, choice) in enumerate(rows):
            text = label if choice.spec == swept.spec else f"{label}: {_changes(choice.spec, swept.spec)}"
            if index and choice.spec == swept.spec:
                text += " (the default)"
            yield ["" if index else names[choice.task], text, _number(choice.dev), _number(choice.held_out),
                   _gain(choice, swept.aim) if choice.spec != swept.spec else ""]


def _facts(swept: StrategySweep) -> list[str]:
    """Return sentences on the sensitivity to the setting."""
    lines = []
    if swept.regret is not None:
        lines.append(f"a random setting loses {_change(swept.regret, swept.aim)} against the best fixed one (dev)")
    if swept.per_task is not None and len(swept.best) > 1:
        lines.append(f"one setting for all tasks loses {_change(swept.per_task, swept.aim)} against the best per task "
                     "(dev)")
    return lines


def _knob_cells(knob: Knob, aim: Aim) -> list[str]:
    effect = "not tried" if knob.alive is None else "none" if not knob.alive else \
        f"with {knob.needs[0]}" + (f" and {len(knob.needs) - 1} others" if len(knob.needs) > 1 else "") \
        if knob.needs else f"none for {', '.join(knob.same)}" if knob.same else "yes"
    return [knob.name, ", ".join(knob.tried), DASH if knob.range is None else _change(knob.range, aim), effect]


def _gain(choice: Choice, aim: Aim) -> str:
    if choice.gain is None:
        return DASH
    ends = "" if choice.gain_low is None or choice.gain_high is None else \
        " [" + ", ".join(_change(end, aim, "+").removesuffix(" %") for end in (choice.gain_low, choice.gain_high)) + "]"
    return _change(choice.gain, aim, "+") + ends


def _change(value: float, aim: Aim, sign: str = "") -> str:
    return f"{value:{sign}.3f}" if aim == "quality" else f"{100 * value:{sign}.1f} %"


def _number(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"
