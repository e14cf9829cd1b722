"""What a check found: for a terminal, as JUnit XML, and as Markdown for a pull request."""

import re
from xml.etree import ElementTree

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from harness.regression.check import Finding, Report
from harness.regression.rules import KINDS
from harness.report.tables import labels, line

MARK = "<!-- decodebench check -->"  # by which a bot finds its comment again
MOST = 50                            # broken rules that a page or a terminal lists
ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # in XML 1.0


def verdict(report: Report) -> str:
    """All of it in one line."""
    total, broken = len(report.findings), len(report.broken)
    unchecked = sum(finding.status == "unchecked" for finding in report.findings)
    found = f"{broken} of {total} checks broken" if broken else f"all {total - unchecked} checks kept"
    return found + (f", {unchecked} could not be made" if unchecked else "")


def terminal(report: Report) -> Group:
    """How many cells kept each rule, and a sentence for each that did not."""
    table = Table("rule", box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("kept", "broken", "not checked"):
        table.add_column(title, justify="right")
    for kind, kept, broken, unchecked in _tally(report):
        table.add_row(kind, str(kept), Text(str(broken or ""), style="red"), Text(str(unchecked or ""), style="yellow"))
    short = _labels(report)
    lines = [Text.assemble((f"{finding.kind} · {finding.task} · {short[finding.strategy]}", "red"),
                           f": {finding.message}") for finding in report.broken[:MOST]]
    return Group(table, *lines, *(Text(text) for text in _rest(report)),
                 Text(f"{report.run} against {report.against}: {verdict(report)}", style="bold"))


def junit(report: Report) -> str:
    """A suite a kind of rule and a case a cell, as CI servers read them."""
    root, short = ElementTree.Element("testsuites", name="decodebench check"), _labels(report)
    for kind, _, broken, unchecked in _tally(report):
        own = [finding for finding in report.findings if finding.kind == kind]
        suite = ElementTree.SubElement(root, "testsuite", name=kind, tests=str(len(own)), failures=str(broken),
                                       errors="0", skipped=str(unchecked))
        for finding in own:
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
    """A comment on a pull request: the verdict, the broken rules, and what was checked."""
    short = _labels(report)
    lines = [MARK, f"### {'❌' if report.broken else '✅'} decodebench: {verdict(report)}", "",
             f"`{report.run}` against `{report.against}`", ""]
    if report.broken:
        lines += [line(["rule", "task", "strategy", "what was found"]), line(["---"] * 4)]
        lines += [line([finding.kind, finding.task, f"`{short[finding.strategy]}`", finding.message])
                  for finding in report.broken[:MOST]]
        lines.append("")
    lines += [line(["rule", "kept", "broken", "not checked"]), line(["---", "---:", "---:", "---:"])]
    lines += [line([kind, *map(str, numbers)]) for kind, *numbers in _tally(report)]
    return "\n".join([*lines, "", *(f"- {text}" for text in _rest(report))]).rstrip() + "\n"


def _tally(report: Report) -> list[tuple[str, int, int, int]]:
    """Each kind that was applied, and how many cells kept it, broke it, and could not be checked."""
    found = []
    for kind in KINDS:
        own = [finding.status for finding in report.findings if finding.kind == kind]
        if own:
            found.append((kind, own.count("kept"), own.count("broken"), own.count("unchecked")))
    return found


def _rest(report: Report) -> list[str]:
    """What a reader must know besides: what was left out, why something was not checked, and notes."""
    reasons: dict[tuple[str, str], list[Finding]] = {}
    for finding in report.findings:
        if finding.status == "unchecked" or (finding.status == "kept" and finding.message.startswith("not confirmed")):
            reasons.setdefault((finding.kind, finding.message), []).append(finding)
    more = len(report.broken) - MOST
    return [*([f"{more} more broken rules are not listed"] if more > 0 else []),
            *(f"{kind}, {len(own)} {'cell' if len(own) == 1 else 'cells'}: {message}"
              for (kind, message), own in reasons.items()), *report.notes]


def _labels(report: Report) -> dict[str, str]:
    return labels(dict.fromkeys(finding.strategy for finding in report.findings))


def _legal(text: str) -> str:
    return ILLEGAL.sub("�", text)
