"""The report of a check: for a terminal, as JUnit XML, and as Markdown for a pull request."""

import re
from xml.etree import ElementTree

from rich.console import Group
from rich.text import Text

from harness.plugins.spec import labels
from harness.regression.check import Finding, Report
from harness.regression.rules import KINDS
from harness.report.tables import markdown_row
from harness.report.terminal import FittedTable, Head, figures

MARK = "<!-- decodebench check -->"  # a bot recognises its comment by it
LISTED = 50  # maximum number of broken rules in a list
ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML 1.0


def verdict(report: Report) -> str:
    """Return the result in one line."""
    total, broken = len(report.findings), len(report.broken)
    unchecked = sum(finding.status == "unchecked" for finding in report.findings)
    result = f"{broken} of {total} checks failed" if broken else f"all {total - unchecked} checks passed"
    return result + (f", {unchecked} not possible" if unchecked else "")


def terminal(report: Report) -> Group:
    """Return a table of how many cells keep each rule, and a sentence for each broken rule."""
    table = FittedTable([Head("rule"), *figures(("kept", "broken", "not checked"), important=("broken",))])
    for kind, kept, broken, unchecked in _tally(report):
        table.add(kind, str(kept), Text(str(broken or ""), style="red"), Text(str(unchecked or ""), style="yellow"))
    short = _labels(report)
    lines = [Text.assemble((f"{finding.kind} · {finding.task} · {short[finding.strategy]}", "red"),
                           f": {finding.message}") for finding in report.broken[:LISTED]]
    return Group(table, *lines, *(Text(text) for text in _notes(report)),
                 Text(f"{report.run} against {report.against}: {verdict(report)}", style="bold"))


def junit(report: Report) -> str:
    """Return JUnit XML for CI servers: a suite per kind of rule, a case per cell."""
    root, short = ElementTree.Element("testsuites", name="decodebench check"), _labels(report)
    for kind, _, broken, unchecked in _tally(report):
        findings = [finding for finding in report.findings if finding.kind == kind]
        suite = ElementTree.SubElement(root, "testsuite", name=kind, tests=str(len(findings)), failures=str(broken),
                                       errors="0", skipped=str(unchecked))
        for finding in findings:
            case = ElementTree.SubElement(suite, "testcase", classname=f"decodebench.{kind}",
                                          name=_legal(f"{finding.task} · {short[finding.strategy]}"))
            if finding.status == "broken":
                failure = ElementTree.SubElement(case, "failure", message=_legal(finding.message))
                failure.text = _legal(f"{finding.strategy} on {finding.task}: {finding.message}")
            elif finding.status == "unchecked":
                ElementTree.SubElement(case, "skipped", message=_legal(finding.message))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def markdown(report: Report) -> str:
    """Return a comment for a pull request: the result, the broken rules, and counts per rule."""
    short = _labels(report)
    lines = [MARK, f"### {'❌' if report.broken else '✅'} decodebench: {verdict(report)}", "",
             f"`{report.run}` against `{report.against}`", ""]
    if report.broken:
        lines += [markdown_row(["rule", "task", "strategy", "result"]), markdown_row(["---"] * 4)]
        lines += [markdown_row([finding.kind, finding.task, f"`{short[finding.strategy]}`", finding.message])
                  for finding in report.broken[:LISTED]]
        lines.append("")
    lines += [markdown_row(["rule", "kept", "broken", "not checked"]), markdown_row(["---", "---:", "---:", "---:"])]
    lines += [markdown_row([kind, *map(str, numbers)]) for kind, *numbers in _tally(report)]
    return "\n".join([*lines, "", *(f"- {text}" for text in _notes(report))]).rstrip() + "\n"


def _tally(report: Report) -> list[tuple[str, int, int, int]]:
    """Return each kind of rule that was applied, with the numbers of cells kept, broken and unchecked."""
    rows = []
    for kind in KINDS:
        statuses = [finding.status for finding in report.findings if finding.kind == kind]
        if statuses:
            rows.append((kind, statuses.count("kept"), statuses.count("broken"), statuses.count("unchecked")))
    return rows


def _notes(report: Report) -> list[str]:
    """Return notes: the number of rules that are not listed, reasons why rules were not checked, and the report's."""
    reasons: dict[tuple[str, str], list[Finding]] = {}
    for finding in report.findings:
        if finding.status == "unchecked" or (finding.status == "kept" and finding.message.startswith("not confirmed")):
            reasons.setdefault((finding.kind, finding.message), []).append(finding)
    more = len(report.broken) - LISTED
    return [*([f"{more} more broken rules are not listed"] if more > 0 else []),
            *(f"{kind}, {len(findings)} {'cell' if len(findings) == 1 else 'cells'}: {message}"
              for (kind, message), findings in reasons.items()), *report.notes]


def _labels(report: Report) -> dict[str, str]:
    return labels(dict.fromkeys(finding.strategy for finding in report.findings))


def _legal(text: str) -> str:
    return ILLEGAL.sub("�", text)
