"""What a sweep found: the default, the best setting for all tasks and the best for each, and what each knob does."""

from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.plugins.spec import Spec
from harness.report.tables import DASH, line
from harness.sweep.grid import changes
from harness.sweep.sweep import Aim, Choice, Knob, StrategySweep, Sweep

AIMS = {"quality": "quality", "speed": "speed-up over the baseline", "forwards": "tokens a forward"}
TITLES = ("task", "setting", "dev", "held-out", "gain over the default")
KNOBS = ("knob", "tried", "range", "effect")


def terminal(found: Sweep) -> Group:
    """Two tables a strategy, and what must be known besides."""
    parts: list[Table | Text] = []
    for one in found.swept:
        table = Table(*TITLES[:2], box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title_justify="left",
                      title=Text(_title(one)), caption=Text("\n".join(_facts(one))), caption_justify="left")
        for title in TITLES[2:]:
            table.add_column(title, justify="right" if title != TITLES[-1] else "left", no_wrap=True)
        for cells in _rows(one):
            table.add_row(*cells)
        knobs = Table(*KNOBS, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for knob in one.knobs:
            texts = _knob_effect(knob, one.aim)
            knobs.add_row(*texts[:-1], Text(texts[-1], style="red" if knob.alive is False else ""))
        parts += [table, knobs]
    return Group(*parts, *(Text(text, style="yellow" if text.startswith("Warning") else "") for text in notes(found)))


def markdown(found: Sweep) -> str:
    """The same as GitHub Markdown."""
    lines = []
    for one in found.swept:
        lines += [f"### `{one.spec}`", "", _title(one), "", line(TITLES), line(["---"] * len(TITLES))]
        lines += [line(cells) for cells in _rows(one)]
        lines += ["", *(f"- {text}" for text in _facts(one)), "", line(KNOBS), line(["---"] * len(KNOBS))]
        lines += [line(_knob_effect(knob, one.aim)) for knob in one.knobs] + [""]
    return "\n".join([*lines, *(f"- {text}" for text in notes(found))]).rstrip() + "\n"


def notes(found: Sweep) -> list[str]:
    """What must be known besides the tables, the knobs without any effect first."""
    dead = [_warning(one, knob) for one in found.swept for knob in one.knobs if knob.alive is False]
    left = [f"{spec} was left out: {reason}" for one in found.swept for spec, reason in one.left_out.items()]
    sizes = ", ".join(f"{found.dev[task]} + {found.held_out[task]} of {task}" for task in found.dev)
    return [*dead, *left, *(f"{spec} was not swept: {reason}" for spec, reason in found.skipped.items()), *found.failed,
            f"chosen on dev and on_held_out on held-out examples: {sizes}; at most {found.budget} settings a strategy; "
            "95 % intervals"]


def _changes(spec: str, default: str) -> str:
    return changes(Spec.parse(spec).knobs, Spec.parse(default).knobs)


def _warning(one: StrategySweep, knob: Knob) -> str:
    others = f"nor with any of {knob.looked} other values of theirs" if knob.looked else "which alone were tried"
    return (f"Warning: knob '{knob.name}' of {Spec.parse(one.spec).name} has no effect: "
            f"{', '.join(knob.tried[1:])} gave the tokens and counts of {knob.tried[0]} on {knob.samples} samples "
            f"({knob.tokens:,} tokens) with the other knobs at their defaults, {others}")


def _title(one: StrategySweep) -> str:
    return (f"{Spec.parse(one.spec).name}: {one.settings} of {one.possible:,} settings, "
            f"by {AIMS[one.aim]}")


def _rows(one: StrategySweep) -> Iterator[list[str]]:
    for default, fixed, best in zip(one.default, one.fixed, one.best, strict=True):
        rows: Sequence[tuple[str, Choice]] = (("default", default), ("best fixed", fixed), ("best here", best))
        for place, (label, choice) in enumerate(rows):
            text = label if choice.spec == one.spec else f"{label}: {_changes(choice.spec, one.spec)}"
            if place and choice.spec == one.spec:
                text += " (the default)"
            yield ["" if place else choice.task, text, _number(choice.dev), _number(choice.held_out),
                   _gain(choice, one.aim) if choice.spec != one.spec else ""]


def _facts(one: StrategySweep) -> list[str]:
    """The sensitivity in words."""
    found = []
    if one.regret is not None:
        found.append(f"a setting taken at random loses {_change(one.regret, one.aim)} against the best fixed one (dev)")
    if one.per_task is not None and len(one.best) > 1:
        found.append(f"one setting for all tasks loses {_change(one.per_task, one.aim)} against one for each (dev)")
    return found


def _knob_effect(knob: Knob, aim: Aim) -> list[str]:
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
