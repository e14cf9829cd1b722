"""The comparison of two runs, first in sentences, then as a table: for a terminal and as GitHub Markdown."""

import difflib
import textwrap
from collections.abc import Iterator, Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.measure.compare import CellChange, Comparison, Effect, PromptChange
from harness.plugins.spec import labels
from harness.plugins.task_names import task_names
from harness.report.names import of_strategy
from harness.report.tables import DASH, interval, markdown_row
from harness.report.terminal import FittedTable, Head, figures

ALPHA = 0.05  # significance level
SHOWN = 10    # maximum number of samples in a list
LARGE = 0.1   # relative change of the machine's speed above which relative speeds are in doubt
FEW = 4       # maximum number of strategies that are listed by name
WIDTH = 76    # characters per line of a diff
DECIDES = "p decides what has changed: it is corrected over all cells (Holm), an interval is for one cell alone"


def headline(comparison: Comparison) -> str:
    """Return the number of changed cells as a sentence."""
    count, total = sum(map(_changed, comparison.cells)), len(comparison.cells)
    verb = "have" if count > 1 else "has"
    return f"{comparison.a} → {comparison.b}: {count or 'none'} of {total} cells {verb} changed"


def sentences(comparison: Comparison) -> list[str]:
    """Return one sentence per change: the machine, each changed cell, all others together, then missing cells."""
    short = labels({cell.strategy for cell in comparison.cells})
    changed = [cell for cell in comparison.cells if _changed(cell)]
    forced = "; ".join(comparison.forced)
    lines = [f"compared with --force although they differ in {forced}"] if forced else []
    lines += [_machine(comparison, comparison.machine)] if comparison.machine else []
    lines += [_cell(cell, short[cell.strategy], cell.strategy == comparison.baseline) for cell in changed]
    lines += _unchanged([cell for cell in comparison.cells if not _changed(cell)])
    for run, cells in ((comparison.a, comparison.only_a), (comparison.b, comparison.only_b)):
        lines += [f"only in {run}: {_listed(cells)}"] if cells else []
    return [*lines, *([f"the runs also differ in {'; '.join(comparison.settings)}"] if comparison.settings else [])]


def _machine(comparison: Comparison, machine: Effect) -> str:
    """Return a sentence on the change of the baseline's speed, which is that of the machine."""
    significant, baseline = _significant(machine.p_value), labels([comparison.baseline])[comparison.baseline]
    speed = f"is {_faster(machine.value)} in {comparison.b} (p {_p(machine.p_value)})" if significant else \
        f"has no significant change of speed ({_signed(machine.value - 1)})"
    doubt = "; so large a change means another machine or other work on it, which does not affect all strategies " \
        "equally" if significant and abs(machine.value - 1) > LARGE else ""
    return f"the baseline {baseline} {speed}; speeds below are relative to it, which cancels the speed of the " \
           f"machine{doubt}"


def _cell(cell: CellChange, label: str, is_base: bool) -> str:
    """Return a sentence on a cell: its speed, tokens and counts, quality, and failures."""
    parts = [] if is_base else [_speed(cell)]
    if not cell.samples:
        parts = ["has no sample that succeeded in both"]
    elif cell.changed:
        parts.append(f"{cell.changed} of {cell.samples} answers have different tokens")
    elif cell.recounted:
        parts.append(f"its tokens are the same, but its counts differ ({_counts(cell)})")
    else:
        parts.append("its tokens are the same")
    if cell.score and (cell.changed or _rescored(cell)):
        same = cell.quality[0] == cell.quality[1]
        parts.append(f"its quality is {_score(cell.quality[0])} as before" if same else
                     f"its quality went from {_score(cell.quality[0])} to {_score(cell.quality[1])} "
                     f"(p {_p(cell.score.p_holm)}{'' if _significant(cell.score.p_holm) else ', not significant'})")
    if cell.failed != (0, 0):
        parts.append(f"{cell.failed[0]} samples failed before and {cell.failed[1]} now")
    return f"{label} on {cell.task}{':' if is_base else ''} {'; '.join(parts)}"


def _speed(cell: CellChange) -> str:
    if not cell.speed:
        return "has no speed"
    if not _significant(cell.speed.p_holm):
        change = f"{_signed(cell.speed.value - 1)}, p {_p(cell.speed.p_holm)}"
        return f"has no significant change of speed ({change})"
    doubt = f", but repeats within a run also differ by {_share(cell.unsteady - 1)}" if cell.unsteady > 1 else ""
    return f"is {_faster(cell.speed.value)} (p {_p(cell.speed.p_holm)}{doubt})"


def _unchanged(cells: list[CellChange]) -> list[str]:
    """Return a sentence on the cells without a change, with their minimum detectable change of speed."""
    if not cells:
        return []
    sizes = sorted(cell.speed.findable for cell in cells if cell.speed and cell.speed.findable == cell.speed.findable)
    ends = f"{_share(sizes[0])} to {_share(sizes[-1])}, depending on the cell" if len(sizes) > 1 else \
        _share(sizes[0]) if sizes else ""
    power = f"; the minimum detectable change of speed is {ends} (power 0.8)" if sizes else ""
    number = "1 cell is" if len(cells) == 1 else f"{len(cells)} cells are"
    return [f"{number} unchanged: the same tokens and counts, and no significant change of speed{power}"]


def _changed(cell: CellChange) -> bool:
    return bool(cell.changed or cell.recounted or cell.failed[0] != cell.failed[1] or not cell.samples
                or _rescored(cell) or (cell.speed and _significant(cell.speed.p_holm)))


def _rescored(cell: CellChange) -> bool:
    return cell.score is not None and cell.quality[0] != cell.quality[1]


def _listed(cells: Sequence[tuple[str, str]]) -> str:
    """Return a list of cells in words, grouped by task; more than a few strategies are counted, not named."""
    tasks: dict[str, list[str]] = {}
    for task, strategy in cells:
        tasks.setdefault(task, []).append(strategy)
    groups: dict[str, list[str]] = {}
    for task, specs in tasks.items():
        names = ", ".join(labels(specs).values()) if len(specs) <= FEW else f"{len(specs)} strategies"
        groups.setdefault(names, []).append(task)
    return "; ".join(f"{names} on {', '.join(tasks)}" for names, tasks in groups.items())


def prompts(comparison: Comparison, limit: int = SHOWN) -> list[str]:
    """Return a line for each of the first `limit` changed samples, and the number of further ones."""
    short = labels({prompt.strategy for prompt in comparison.prompts})
    lines = [f"{prompt.task}, {prompt.example}, {short[prompt.strategy]}{_number(prompt)}: {'; '.join(_change(prompt))}"
             for prompt in comparison.prompts[:limit]]
    more = len(comparison.prompts) - len(lines)
    return [*lines, f"{more} more (--json lists all)"] if more else lines


def _number(prompt: PromptChange) -> str:
    numbers = {"sample": prompt.sample, "repeat": prompt.repeat}
    return "".join(f", {name} {value}" for name, value in numbers.items() if value)


def _change(prompt: PromptChange) -> Iterator[str]:
    if prompt.at is not None:
        yield f"tokens differ from token {prompt.at + 1} on"
    if prompt.scores[0] != prompt.scores[1] and prompt.scores[0] == prompt.scores[0]:
        yield f"score {prompt.scores[0]:.3g} → {prompt.scores[1]:.3g}"
    yield from (f"{name.replace('_', ' ')} {a} → {b}" for name, (a, b) in prompt.counts.items())


def diffs(comparison: Comparison) -> Iterator[tuple[str, list[str]]]:
    """Yield unified diffs of the changed texts, each with a title; long lines are wrapped."""
    for prompt in comparison.prompts:
        if prompt.texts:
            a, b = ([part for row in text.split("\n") for part in textwrap.wrap(row, WIDTH) or [""]]
                    for text in prompt.texts)
            rows = list(difflib.unified_diff(a, b, comparison.a, comparison.b, lineterm=""))
            yield f"{prompt.task}, {prompt.example}, {prompt.strategy}{_number(prompt)}", rows or ["(the same text)"]


def terminal(comparison: Comparison) -> Group:
    """Return sentences, a table, changed samples and diffs, for a terminal."""
    comparison = _with_task_names(comparison)
    parts: list[Text | Table | FittedTable] = [Text(headline(comparison), style="bold"), _list(sentences(comparison)),
                                               Text(), _table(comparison)]
    if comparison.prompts:
        parts += [Text("\nSamples that changed", style="bold"), _list(prompts(comparison))]
    colours = {"-": "red", "+": "green", "@": "dim"}
    for title, rows in diffs(comparison):
        parts += [Text(f"\n{title}", style="bold"), *(Text(row, style=colours.get(row[:1], "")) for row in rows)]
    return Group(*parts)


def _with_task_names(comparison: Comparison) -> Comparison:
    alone = [*comparison.only_a, *comparison.only_b]
    names = task_names(dict.fromkeys([*(cell.task for cell in comparison.cells), *(task for task, _ in alone)]))
    return comparison.model_copy(update={
        "cells": [cell.model_copy(update={"task": names[cell.task]}) for cell in comparison.cells],
        "prompts": [prompt.model_copy(update={"task": names[prompt.task]}) for prompt in comparison.prompts],
        "only_a": [(names[task], strategy) for task, strategy in comparison.only_a],
        "only_b": [(names[task], strategy) for task, strategy in comparison.only_b]})


def _list(rows: Sequence[str]) -> Table:
    """Return a bullet list in which wrapped lines are indented."""
    grid = Table.grid(padding=(0, 1))
    for row in rows:
        grid.add_row("-", Text(row))
    return grid


def _table(comparison: Comparison) -> FittedTable:
    short = labels({cell.strategy for cell in comparison.cells})
    heads = figures(("speed", "p, Holm", "tok/s", "same", "fwd", "quality"), important=("speed", "p, Holm", "quality"))
    table = FittedTable([Head("strategy"), *heads], caption=[
        f"speeds are ratios of {comparison.b} to {comparison.a} with 95 % intervals, relative to each run's baseline "
        f"and absolute (tok/s); {DECIDES}"])
    for task in dict.fromkeys(cell.task for cell in comparison.cells):
        table.add(Text(task, style="bold"))
        for cell in (cell for cell in comparison.cells if cell.task == task):
            a, b = map(_score, cell.quality)
            table.add(of_strategy(short[cell.strategy]), _ratio(cell.speed), _p_cell(cell.speed),
                      f"{cell.absolute.value:.2f}" if cell.absolute else DASH,
                      f"{cell.samples - cell.changed}/{cell.samples}", _forwards(cell),
                      DASH if not cell.score else a if a == b else f"{a}→{b}",
                      style="bold" if _changed(cell) else None)
        table.end_section()
    return table


TITLES = ("strategy", "samples", "relative speed", "p, Holm", "MDE", "tok/s", "same tokens", "forwards", "quality",
          "difference", "p, Holm")


def markdown(comparison: Comparison) -> str:
    """Return sentences, a GitHub table per task, changed samples and diffs."""
    comparison = _with_task_names(comparison)
    short = labels({cell.strategy for cell in comparison.cells})
    lines = [f"## {headline(comparison)}", "", *(f"- {sentence}" for sentence in sentences(comparison))]
    for task in dict.fromkeys(cell.task for cell in comparison.cells):
        lines += ["", f"### {task}", "", markdown_row(TITLES), markdown_row(["---", *["---:"] * (len(TITLES) - 1)])]
        lines += [markdown_row([f"`{short[cell.strategy]}`", str(cell.samples), _ratio(cell.speed), _p_cell(cell.speed),
                        _share(cell.speed.findable) if cell.speed else DASH, _ratio(cell.absolute),
                        f"{cell.samples - cell.changed}/{cell.samples}", _forwards(cell),
                        " → ".join(map(_score, cell.quality)), _difference(cell.score), _p_cell(cell.score)])
                  for cell in comparison.cells if cell.task == task]
    lines += ["", f"Speeds are ratios of {comparison.b} to {comparison.a} with 95 % intervals, relative to each run's "
              f"own `{comparison.baseline}` or absolute (tok/s); MDE is the minimum detectable change (power 0.8). "
              f"{DECIDES}."]
    if comparison.prompts:
        lines += ["", "### Samples that changed", "", *(f"- {row}" for row in prompts(comparison))]
    for title, rows in diffs(comparison):
        lines += ["", f"**{title}**", "", "````diff", *rows, "````"]
    return "\n".join(lines) + "\n"


def _significant(p_value: float) -> bool:
    return p_value < ALPHA


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {value:.{3 if value < 0.1 else 2}f}"


def _p_cell(effect: Effect | None) -> str:
    if effect is None or effect.p_holm != effect.p_holm:
        return DASH
    return _p(effect.p_holm).removeprefix("= ").replace("< ", "<")


def _share(value: float) -> str:
    return DASH if value != value else f"{100 * value:.2g} %" if value < 0.995 else f"{100 * value:.0f} %" \
        if value < 10 else ">999 %"


def _signed(value: float) -> str:
    return f"{100 * value:+.1f} %".replace("-", "−")


def _faster(ratio: float) -> str:
    """Return a ratio of speeds in words: `5.1 % slower`, `2.30 times as fast`."""
    if ratio >= 2 or ratio <= 0.5:
        return f"{ratio:.2f} times as fast"
    return f"{100 * abs(ratio - 1):.2g} % {'faster' if ratio > 1 else 'slower'}"


def _ratio(effect: Effect | None) -> str:
    if effect is None:
        return DASH
    return f"{effect.value:.2f}" + interval(effect.low, effect.high, "{:.2f}".format)


def _difference(effect: Effect | None) -> str:
    if effect is None:
        return DASH
    return f"{effect.value:+.3f}{interval(effect.low, effect.high, '{:+.3f}'.format)}".replace("-", "−")


def _score(value: float) -> str:
    return DASH if value != value else f"{value:.3f}".rstrip("0").ljust(4, "0")


def _forwards(cell: CellChange) -> str:
    a, b = cell.counts["forwards"]
    return "=" if a == b else _signed(b / a - 1) if a else DASH


def _counts(cell: CellChange) -> str:
    """Return the changes of the totals that differ, in percent."""
    changes = [f"{name.replace('_', ' ')} {_signed(b / a - 1) if a else f'{a} → {b}'}"
               for name, (a, b) in cell.counts.items() if a != b]
    return ", ".join(changes) or "the totals are the same"
