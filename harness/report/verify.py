"""The report of losslessness: a table for the terminal, and one HTML page."""

from collections.abc import Sequence
from typing import Any

from rich.text import Text

from harness.plugins.spec import Spec, labels
from harness.report.names import of_strategy
from harness.report.page import css, template
from harness.report.tables import DASH
from harness.report.terminal import FittedTable, Head, figures
from harness.verify.results import Report, StrategyResult

TITLES = {
    "temperature": "0 is greedy decoding; above 0 tokens are sampled, from a nucleus if p is given.",
    "verdict": "The result; a tie is two tokens whose logits rounding can swap.",
    "same": "Answers that equal greedy's at batch size 1, of all answers; or the number of sampled sequences.",
    "prefix": "Tokens of the shortest matching prefix among the answers that differ.",
    "margin": "Difference of the two tokens' logits at the first difference: the smallest and the largest.",
    "τ": "Tokens per step after the first step of each answer.",
    "p-value": "Probability of tokens at least this far from the guaranteed distribution, before Holm's correction.",
}


def result_labels(findings: Sequence[StrategyResult]) -> list[str]:
    """Return a short label for each result: its name, or the strategy with the knobs that distinguish it."""
    specs = [_without_temperature(finding.strategy) for finding in findings]
    short = labels(specs)
    return [finding.name or short[spec] for finding, spec in zip(findings, specs, strict=True)]


def _without_temperature(spec: str) -> str:
    stages = Spec.parse(spec).stages
    return str(Spec(tuple(stage.only(stage.knobs.keys() - {"temperature", "p"}) for stage in stages)))


def cells(finding: StrategyResult) -> list[str]:
    """Return the cells of one table row, in the order of `TITLES`."""
    margins = [f"{parting.margin:.3g}" for parting in sorted(finding.partings, key=lambda p: p.margin or 0.0)
               if parting.margin is not None]
    return [
        finding.temperature, finding.verdict,
        f"{finding.total} samples" if finding.same is None else f"{finding.same}/{finding.total}",
        DASH if finding.prefix is None else str(finding.prefix),
        " … ".join(dict.fromkeys([margins[0], margins[-1]])) if margins else DASH,
        DASH if finding.tau is None else f"{finding.tau:.2f}",
        DASH if finding.p_value is None else f"{finding.p_value:.0e}" if finding.p_value < 1e-3
        else f"{finding.p_value:.2f}",
    ]


def details(finding: StrategyResult) -> list[str]:
    """Return remarks on a result, one sentence each."""
    lines = list(finding.remarks)
    if finding.error:
        lines.append(f"{finding.failed} failed: {finding.error}")
    if finding.again:
        lines.append(f"the same prompt, decoded again after others, gives different {finding.again.replace('_', ' ')}")
    if finding.impossible:
        lines.append(f"{finding.impossible} sampled tokens have probability 0")
    if finding.verdict == "distribution rejected":
        worst = min(finding.tests, key=lambda name: finding.tests[name])
        lines.append(f"the test '{worst}' is the most significant (p = {finding.tests[worst]:.0e})")
    for parting in finding.partings:
        where = f"{parting.example} of {parting.task}, turn {parting.turn + 1}, token {parting.at + 1}"
        if parting.said:
            lines.append(f"{where}: {parting.said}")
            continue
        gap = "one answer ends there" if parting.margin is None else f"logits {parting.margin:.3g} apart"
        below = "" if parting.off is None else \
            f"; a token is {parting.off:.2g} below the likeliest in a plain forward pass"
        lines.append(f"{where}: {parting.cause}, {gap}{below}")
    return lines


def terminal(report: Report) -> FittedTable:
    """Return a table with one row per strategy and temperature and its filled columns, for a terminal."""
    bad = sum(not finding.ok for finding in report.findings)
    rows = [dict(zip(TITLES, cells(finding), strict=True)) for finding in report.findings]
    filled = [title for title in list(TITLES)[2:] if any(row[title] != DASH for row in rows)]
    table = FittedTable([Head("strategy"), Head("at"), Head("verdict"),  # the temperature has a short head
                         *figures(filled, important=("same", "p-value", "τ"))], caption=notes(report),
                        title=Text(f"{report.model} ({_set_up(report)}): {_sum(report, bad)}"))
    last = ""
    for label, finding, row in zip(result_labels(report.findings), report.findings, rows, strict=True):
        colour = "green" if finding.ok and not finding.partings else "yellow" if finding.ok else "red"
        table.add("" if label == last else of_strategy(label), row["temperature"], Text(row["verdict"], style=colour),
                  *(row[title] for title in filled))
        last = label
    return table


def notes(report: Report, limit: int = 3) -> list[str]:
    """Return the notes below the table, at most `limit` sentences per result."""
    named = list(zip(result_labels(report.findings), report.findings, strict=True))
    compared = report.about or f"batch size {report.concurrency}, compared with greedy at batch size 1"
    lines = [f"{compared} ({report.tokens:,} tokens); a tie is at most {report.tie:g}; a distribution is rejected when "
             f"Holm's p is below {report.alpha:g}"]
    for label, finding in named:
        remarks = details(finding)
        lines += [f"{label} at {finding.temperature}: {line}" for line in remarks[:limit]]
        lines += [f"{label} at {finding.temperature}: {len(remarks) - limit} more"] if len(remarks) > limit else []
    unchecked = dict[str, list[str]]()
    for spec, reason in report.skipped.items():
        unchecked.setdefault(reason, []).append(spec)
    return [*lines, *report.warnings,
            *(f"{', '.join(specs)} {'was' if len(specs) == 1 else 'were'} not checked: {reason}"
              for reason, specs in unchecked.items())]


def _set_up(report: Report) -> str:
    return report.dtype if report.backend == "transformers" else f"{report.dtype}, {report.backend}"


def _sum(report: Report, bad: int) -> str:
    checked = f"{len(report.findings)} checks"
    return f"all {checked} passed" if not bad else f"{bad} of {checked} failed"


def html(report: Report) -> str:
    """Return the report as one self-contained HTML page."""
    rows: list[dict[str, Any]] = [
        {"label": label, "finding": finding, "cells": cells(finding), "details": details(finding)}
        for label, finding in zip(result_labels(report.findings), report.findings, strict=True)]
    return template("verify.html.j2").render(
        css=css(), report=report, rows=rows, titles=TITLES, notes=notes(report, 0)[:1],
        verdict=_sum(report, sum(not finding.ok for finding in report.findings)))
