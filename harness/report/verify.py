"""The report of losslessness: a table for the terminal, and one HTML page."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from harness.plugins.spec import Spec
from harness.report.page import css, template
from harness.report.tables import DASH, labels
from harness.verify.checker import Finding, Report

TITLES = {
    "temperature": "0 is greedy decoding; above it tokens are drawn, from a nucleus where p is given.",
    "verdict": "What was found; a tie is two tokens whose logits rounding can swap.",
    "same": "Answers whose tokens are all greedy's (one text at a time), of all answers; or texts drawn.",
    "prefix": "Tokens of the shortest exact start among the answers that part.",
    "margin": "Distance of the two tokens' logits where answers part: the smallest and the largest.",
    "τ": "Tokens a step after the first step of each text.",
    "p-value": "Chance of tokens at least this far from the promised law if it were kept, before Holm's correction.",
}


def names(findings: Sequence[Finding]) -> list[str]:
    """A short label for each finding: the strategy, with the knobs that tell it from others of its name."""
    plain = [_without_law(finding.strategy) for finding in findings]
    short = labels(plain)
    return [short[spec] for spec in plain]


def _without_law(spec: str) -> str:
    stages = Spec.parse(spec).stages
    return str(Spec(tuple(stage.only(stage.knobs.keys() - {"temperature", "p"}) for stage in stages)))


def cells(finding: Finding) -> list[str]:
    """The texts of one line, in the order of `TITLES`."""
    margins = [f"{each.margin:.2g}" for each in sorted(finding.partings, key=lambda p: p.margin or 0.0)
               if each.margin is not None]
    return [
        finding.temperature, finding.verdict,
        f"{finding.total} texts" if finding.same is None else f"{finding.same}/{finding.total}",
        DASH if finding.prefix is None else str(finding.prefix),
        " … ".join(dict.fromkeys([margins[0], margins[-1]])) if margins else DASH,
        DASH if finding.tau is None else f"{finding.tau:.2f}",
        DASH if finding.p_value is None else f"{finding.p_value:.0e}" if finding.p_value < 1e-3
        else f"{finding.p_value:.2f}",
    ]


def details(finding: Finding) -> list[str]:
    """What else must be said of a finding, a sentence each."""
    lines = []
    if finding.error:
        lines.append(f"{finding.failed} failed: {finding.error}")
    if finding.again:
        lines.append(f"the same prompt after others gives other {finding.again.replace('_', ' ')}")
    if finding.impossible:
        lines.append(f"{finding.impossible} tokens drawn that the law does not allow")
    if finding.verdict == "law rejected":
        worst = min(finding.tests, key=lambda name: finding.tests[name])
        lines.append(f"the test '{worst}' shows it most (p = {finding.tests[worst]:.0e})")
    for each in finding.partings:
        place = f"{each.example} of {each.task}, turn {each.turn + 1}, token {each.at + 1}: {each.cause}"
        gap = "one answer ends there" if each.margin is None else f"logits {each.margin:.2g} apart"
        below = "" if each.off is None else f"; a token {each.off:.2g} below the likeliest in a plain reading"
        lines.append(f"{place}, {gap}{below}")
    return lines


def terminal(report: Report) -> Table:
    """One line a strategy and temperature, for a terminal of 80 columns or more."""
    bad = sum(not finding.ok for finding in report.findings)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, title_justify="left",
                  title=Text(f"{report.model} ({_set_up(report)}): {_sum(report, bad)}"), caption_justify="left",
                  caption=Text("\n".join(notes(report))))
    table.add_column("strategy", overflow="fold", min_width=12)
    for title in TITLES:
        table.add_column(title, justify="left" if title in ("temperature", "verdict") else "right", no_wrap=True)
    last = ""
    for label, finding in zip(names(report.findings), report.findings, strict=True):
        texts = cells(finding)
        colour = "green" if finding.ok and not finding.partings else "yellow" if finding.ok else "red"
        table.add_row(Text("" if label == last else label), texts[0], Text(texts[1], style=colour), *texts[2:])
        last = label
    return table


def notes(report: Report, most: int = 3) -> list[str]:
    """What a reader must know beside the table; at most `most` sentences a finding."""
    named = list(zip(names(report.findings), report.findings, strict=True))
    lines = [f"answers {report.concurrency} at a time against greedy alone ({report.tokens:,} tokens); a tie is at "
             f"most {report.tie:g}; a law is rejected when Holm's p is below {report.alpha:g}"]
    for label, finding in named:
        found = details(finding)
        lines += [f"{label} at {finding.temperature}: {line}" for line in found[:most]]
        lines += [f"{label} at {finding.temperature}: {len(found) - most} more"] if len(found) > most else []
    alike = dict[str, list[str]]()
    for spec, reason in report.skipped.items():
        alike.setdefault(reason, []).append(spec)
    return [*lines, *report.warnings,
            *(f"{', '.join(specs)} {'was' if len(specs) == 1 else 'were'} not checked: {reason}"
              for reason, specs in alike.items())]


def _set_up(report: Report) -> str:
    return report.dtype if report.backend == "transformers" else f"{report.dtype}, {report.backend}"


def _sum(report: Report, bad: int) -> str:
    checked = f"{len(report.findings)} checks"
    return f"all {checked} passed" if not bad else f"{bad} of {checked} failed"


def html(report: Report) -> str:
    """The whole report as one page that needs nothing else."""
    rows: list[dict[str, Any]] = [
        {"label": label, "finding": finding, "cells": cells(finding), "details": details(finding)}
        for label, finding in zip(names(report.findings), report.findings, strict=True)]
    return template("verify.html.j2").render(
        css=css(), report=report, rows=rows, titles=TITLES, notes=notes(report, 0)[:1],
        verdict=_sum(report, sum(not finding.ok for finding in report.findings)))
