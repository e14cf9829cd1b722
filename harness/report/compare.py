"""A comparison of two runs in words first and numbers second: for a terminal and as GitHub Markdown."""

import difflib
import textwrap
from collections.abc import Iterator, Sequence

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.measure.compare import CellChange, Comparison, Effect, PromptChange
from harness.report.tables import DASH, labels, line

TRUSTED = 0.05  # a p-value below is a finding
SHOWN = 10      # samples that are listed
LARGE = 0.1     # a change of the machine that relative speeds do not quite cancel
FEW = 4         # strategies that are listed by name
WIDTH = 76      # of texts in a diff


def headline(found: Comparison) -> str:
    """How many cells changed."""
    count, total = sum(map(_changed, found.cells)), len(found.cells)
    return f"{found.a} → {found.b}: {count or 'none'} of {total} cells {'have' if count > 1 else 'has'} changed"


def sentences(found: Comparison) -> list[str]:
    """What changed, a sentence each: the machine first, then every cell that changed, then what is missing."""
    short = labels({cell.strategy for cell in found.cells})
    changed = [cell for cell in found.cells if _changed(cell)]
    lines = [f"forced, though they differ in {'; '.join(found.forced)}"] if found.forced else []
    lines += [_machine(found)] if found.machine else []
    lines += [_cell(cell, short[cell.strategy], cell.strategy == found.baseline) for cell in changed]
    lines += _rest([cell for cell in found.cells if not _changed(cell)])
    for run, cells in ((found.a, found.only_a), (found.b, found.only_b)):
        lines += [f"only in {run}: {_listed(cells)}"] if cells else []
    return [*lines, *([f"the runs also differ in {'; '.join(found.settings)}"] if found.settings else [])]


def _machine(found: Comparison) -> str:
    assert found.machine
    told = _told(found.machine.p_value)
    speed = f"{_faster(found.machine.value)} in {found.b} (p {_p(found.machine.p_value)})" if told else \
        f"as fast in both as far as can be told ({_signed(found.machine.value - 1)})"
    doubt = "; so large a difference means another machine, or something else that ran on it, and strategies do not " \
        "all suffer alike" if told and abs(found.machine.value - 1) > LARGE else ""
    return f"the baseline {labels([found.baseline])[found.baseline]} is {speed}; speeds below are relative to it, so " \
           f"that a machine that is faster or slower as a whole cancels{doubt}"


def _cell(cell: CellChange, label: str, is_base: bool) -> str:
    """One cell in words: its speed, its tokens and counts, its quality, its failures."""
    parts = [] if is_base else [_speed(cell)]
    if not cell.samples:
        parts = ["has no sample that succeeded in both"]
    elif cell.changed:
        parts.append(f"{cell.changed} of {cell.samples} answers have other tokens")
    elif cell.recounted:
        parts.append(f"its tokens are the same, with other counts ({_counts(cell)})")
    else:
        parts.append("its tokens are the same")
    if cell.score and (cell.changed or _rescored(cell)):
        same = cell.quality[0] == cell.quality[1]
        parts.append(f"its quality is {_score(cell.quality[0])} as before" if same else
                     f"its quality went from {_score(cell.quality[0])} to {_score(cell.quality[1])} "
                     f"(p {_p(cell.score.p_holm)}{'' if _told(cell.score.p_holm) else ', not told from chance'})")
    if cell.failed != (0, 0):
        parts.append(f"{cell.failed[0]} samples failed before and {cell.failed[1]} now")
    return f"{label} on {cell.task}{':' if is_base else ''} {'; '.join(parts)}"


def _speed(cell: CellChange) -> str:
    if not cell.speed:
        return "has no speed"
    if not _told(cell.speed.p_holm):
        change = f"{_signed(cell.speed.value - 1)}, p {_p(cell.speed.p_holm)}"
        return f"is as fast as before as far as can be told ({change})"
    doubt = f", but repeats within a run differ by {_share(cell.unsteady - 1)} too" if cell.unsteady > 1 else ""
    return f"is {_faster(cell.speed.value)} (p {_p(cell.speed.p_holm)}{doubt})"


def _rest(cells: list[CellChange]) -> list[str]:
    """What is to be said of the cells where nothing changed: how large a change would have been seen."""
    sizes = sorted(cell.speed.findable for cell in cells if cell.speed and cell.speed.findable == cell.speed.findable)
    seen = f"; a change of speed of {_share(sizes[0])}" if sizes else ""
    seen += f" to {_share(sizes[-1])}, by cell," if len(sizes) > 1 else ""
    seen += " would have been found four times in five" if sizes else ""
    cell = "1 cell is" if len(cells) == 1 else f"{len(cells)} cells are"
    return [f"{cell} as before: the same tokens and counts, and no change of speed that can be told{seen}"] \
        if cells else []


def _changed(cell: CellChange) -> bool:
    return bool(cell.changed or cell.recounted or cell.failed[0] != cell.failed[1] or not cell.samples
                or _rescored(cell) or (cell.speed and _told(cell.speed.p_holm)))


def _rescored(cell: CellChange) -> bool:
    return cell.score is not None and cell.quality[0] != cell.quality[1]


def _listed(cells: Sequence[tuple[str, str]]) -> str:
    """Cells by task; many strategies are counted."""
    tasks: dict[str, list[str]] = {}
    for task, strategy in cells:
        tasks.setdefault(task, []).append(strategy)
    alike: dict[str, list[str]] = {}
    for task, specs in tasks.items():
        named = ", ".join(labels(specs).values()) if len(specs) <= FEW else f"{len(specs)} strategies"
        alike.setdefault(named, []).append(task)
    return "; ".join(f"{named} on {', '.join(tasks)}" for named, tasks in alike.items())


def prompts(found: Comparison, most: int = SHOWN) -> list[str]:
    """The first samples that changed, a line each, and how many more there are."""
    short = labels({prompt.strategy for prompt in found.prompts})
    lines = [f"{prompt.task}, {prompt.example}, {short[prompt.strategy]}{_number(prompt)}: {'; '.join(_change(prompt))}"
             for prompt in found.prompts[:most]]
    more = len(found.prompts) - len(lines)
    return [*lines, f"{more} more (--json has all)"] if more else lines


def _number(prompt: PromptChange) -> str:
    places = {"sample": prompt.sample, "repeat": prompt.repeat}
    return "".join(f", {name} {value}" for name, value in places.items() if value)


def _change(prompt: PromptChange) -> Iterator[str]:
    if prompt.at is not None:
        yield f"other tokens from number {prompt.at + 1} on"
    if prompt.scores[0] != prompt.scores[1] and prompt.scores[0] == prompt.scores[0]:
        yield f"score {prompt.scores[0]:.3g} → {prompt.scores[1]:.3g}"
    yield from (f"{name.replace('_', ' ')} {a} → {b}" for name, (a, b) in prompt.counts.items())


def diffs(found: Comparison) -> Iterator[tuple[str, list[str]]]:
    """The texts that were asked for as unified diffs, each with a title; long lines are wrapped."""
    for prompt in found.prompts:
        if prompt.texts:
            a, b = ([part for row in text.split("\n") for part in textwrap.wrap(row, WIDTH) or [""]]
                    for text in prompt.texts)
            rows = list(difflib.unified_diff(a, b, found.a, found.b, lineterm=""))
            yield f"{prompt.task}, {prompt.example}, {prompt.strategy}{_number(prompt)}", rows or ["(the same text)"]


def terminal(found: Comparison) -> Group:
    """Words, then a table, then the samples and texts, for a terminal of 80 columns or more."""
    parts: list[Text | Table] = [Text(headline(found), style="bold"), _list(sentences(found)), Text(), _table(found)]
    if found.prompts:
        parts += [Text("\nSamples that changed", style="bold"), _list(prompts(found))]
    colours = {"-": "red", "+": "green", "@": "dim"}
    for title, rows in diffs(found):
        parts += [Text(f"\n{title}", style="bold"), *(Text(row, style=colours.get(row[:1], "")) for row in rows)]
    return Group(*parts)


def _list(rows: Sequence[str]) -> Table:
    """Bullets whose further lines are indented."""
    grid = Table.grid(padding=(0, 1))
    for row in rows:
        grid.add_row("-", Text(row))
    return grid


def _table(found: Comparison) -> Table:
    short = labels({cell.strategy for cell in found.cells})
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, caption_justify="left",
                  caption=Text(f"speeds are {found.b}'s over {found.a}'s, with 95 % intervals: relative to each run's "
                               "baseline, and tok/s as they are; p after Holm's correction over all of them",
                               style="table.caption"))
    table.add_column("strategy", overflow="fold", min_width=12)
    for title in ("speed", "p", "tok/s", "same", "fwd", "quality"):
        table.add_column(title, justify="right", no_wrap=True)
    for task in dict.fromkeys(cell.task for cell in found.cells):
        table.add_row(Text(task, style="bold"))
        for cell in (cell for cell in found.cells if cell.task == task):
            a, b = map(_score, cell.quality)
            table.add_row(Text(short[cell.strategy].replace(":", " ", 1).replace(",", " ")), _ratio(cell.speed),
                          _p_cell(cell.speed), f"{cell.absolute.value:.2f}" if cell.absolute else DASH,
                          f"{cell.samples - cell.changed}/{cell.samples}", _forwards(cell),
                          DASH if not cell.score else a if a == b else f"{a}→{b}",
                          style="bold" if _changed(cell) else None)
        table.add_section()
    return table


TITLES = ("strategy", "samples", "relative speed", "p", "finds", "tok/s", "same tokens", "forwards", "quality",
          "difference", "p")


def markdown(found: Comparison) -> str:
    """Words, one GitHub table a task, the samples and the texts that were asked for."""
    short = labels({cell.strategy for cell in found.cells})
    lines = [f"## {headline(found)}", "", *(f"- {sentence}" for sentence in sentences(found))]
    for task in dict.fromkeys(cell.task for cell in found.cells):
        lines += ["", f"### {task}", "", line(TITLES), line(["---", *["---:"] * (len(TITLES) - 1)])]
        lines += [line([f"`{short[cell.strategy]}`", str(cell.samples), _ratio(cell.speed), _p_cell(cell.speed),
                        _share(cell.speed.findable) if cell.speed else DASH, _ratio(cell.absolute),
                        f"{cell.samples - cell.changed}/{cell.samples}", _forwards(cell),
                        " → ".join(map(_score, cell.quality)), _difference(cell.score), _p_cell(cell.score)])
                  for cell in found.cells if cell.task == task]
    lines += ["", f"Speeds are those of {found.b} over those of {found.a}, with 95 % intervals, relative to each run's "
              f"own `{found.baseline}` or as they are (tok/s)."]
    if found.prompts:
        lines += ["", "### Samples that changed", "", *(f"- {row}" for row in prompts(found))]
    for title, rows in diffs(found):
        lines += ["", f"**{title}**", "", "````diff", *rows, "````"]
    return "\n".join(lines) + "\n"


def _told(p_value: float) -> bool:
    return p_value < TRUSTED


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
    """A ratio of speeds in words: `5.1 % slower`, `2.30 times as fast`."""
    if ratio >= 2 or ratio <= 0.5:
        return f"{ratio:.2f} times as fast"
    return f"{100 * abs(ratio - 1):.2g} % {'faster' if ratio > 1 else 'slower'}"


def _ratio(effect: Effect | None) -> str:
    if effect is None:
        return DASH
    ends = "" if effect.low != effect.low else f" [{effect.low:.2f}, {effect.high:.2f}]"
    return f"{effect.value:.2f}{ends}"


def _difference(effect: Effect | None) -> str:
    if effect is None:
        return DASH
    ends = "" if effect.low != effect.low else f" [{effect.low:+.3f}, {effect.high:+.3f}]"
    return f"{effect.value:+.3f}{ends}".replace("-", "−")


def _score(value: float) -> str:
    return DASH if value != value else f"{value:.3f}".rstrip("0").ljust(4, "0")


def _forwards(cell: CellChange) -> str:
    a, b = cell.counts["forwards"]
    return "=" if a == b else _signed(b / a - 1) if a else DASH


def _counts(cell: CellChange) -> str:
    """The totals that differ, as changes in percent."""
    changes = [f"{name.replace('_', ' ')} {_signed(b / a - 1) if a else f'{a} → {b}'}"
               for name, (a, b) in cell.counts.items() if a != b]
    return ", ".join(changes) or "the totals are the same"
