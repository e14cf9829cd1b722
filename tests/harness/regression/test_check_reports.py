"""What `decodebench check` prints and writes, its exit codes, and the action that calls it."""

import json
import os
import subprocess
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml

from harness.regression.check import check
from harness.regression.rules import DEFAULT, Quality, Speed
from harness.regression.snapshot import Snapshot
from harness.report.check import LISTED, MARK, junit, markdown
from harness.store.schema import Record
from tests.harness.regression.test_check import BEAM, DRAFTING, at, made, one_more_forward, scored, slower, wrong_token
from tests.program import call

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A baseline file, a run that keeps it, one with a wrong token and one with one more forward."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    made(Path("fine"))
    made(Path("wrong"), at("words", DRAFTING, wrong_token))
    made(Path("more"), at("maths", BEAM, one_more_forward))
    assert call("check", "fine", "--write", "base.json").stdout == "Baseline: base.json\n"
    return tmp_path


def test_exit_codes_and_the_last_line(folders: Path) -> None:
    fine, wrong, more = (call("check", name, "--baseline", "base.json") for name in ("fine", "wrong", "more"))
    assert [done.exit_code for done in (fine, wrong, more)] == [0, 1, 1]
    assert fine.stdout.splitlines()[-1] == "fine against base.json: all 32 checks passed"
    assert wrong.stdout.splitlines()[-1] == "wrong against base.json: 2 of 32 checks failed"
    text = " ".join(wrong.stdout.split())
    assert "tokens · words · speculative: different tokens on 3; 1 of 12 samples" in text
    assert "lossless · words · speculative: tokens differ from those of greedy on 3; 1 of 12 samples" in text
    assert "counts · maths · beam: forwards 2 instead of 1 on 3; 1 of 12 samples" in " ".join(more.stdout.split())
    assert all(len(line) <= 80 for done in (fine, wrong, more) for line in done.stdout.splitlines())


def test_another_run_is_a_baseline_too(folders: Path) -> None:
    assert call("check", "wrong", "--baseline", "wrong").exit_code == 1, "lossless does not look at the baseline"
    assert call("check", "more", "--baseline", "more").exit_code == 0


def test_every_file_is_written_and_says_the_same(folders: Path) -> None:
    call("check", "wrong", "--baseline", "base.json", "--junit", "out/j.xml", "--markdown", "out/m.md", "--json",
         "out/f.json", "--benchmark", "out/b.json")
    root = ElementTree.parse("out/j.xml").getroot()
    suites = {suite.get("name"): suite for suite in root.iter("testsuite")}
    assert {name: (suite.get("tests"), suite.get("failures")) for name, suite in suites.items()} == {
        "complete": ("6", "0"), "counts": ("6", "0"), "tokens": ("6", "1"), "lossless": ("2", "1"),
        "scores": ("6", "0"), "quality": ("6", "0")}
    [case] = [case for case in suites["tokens"].iter("testcase") if case.find("failure") is not None]
    failure = case.find("failure")
    assert (case.get("classname"), case.get("name")) == ("decodebench.tokens", "words · speculative")
    assert failure is not None
    assert failure.get("message") == "different tokens on 3; 1 of 12 samples"
    text = Path("out/m.md").read_text(encoding="utf-8").splitlines()
    assert text[:2] == [MARK, "### ❌ decodebench: 2 of 32 checks failed"]
    assert "| tokens | words | `speculative` | different tokens on 3; 1 of 12 samples |" in text
    assert "| tokens | 5 | 1 | 0 |" in text
    found = json.loads(Path("out/f.json").read_text(encoding="utf-8"))
    assert [one["kind"] for one in found["findings"] if one["status"] == "broken"] == ["tokens", "lossless"]


def test_the_figures_are_what_github_action_benchmark_reads(folders: Path) -> None:
    call("check", "fine", "--baseline", "base.json", "--benchmark", "b.json")
    figures = json.loads(Path("b.json").read_text(encoding="utf-8"))
    assert len(figures) == 2 * 3 * 3 + 2 * 2, "quality, tokens a second, speed-up; tau of what does not search"
    assert all({"name", "unit", "value"} <= set(one) <= {"name", "unit", "value", "range", "extra"} for one in figures)
    assert all(isinstance(one["value"], float) and isinstance(one.get("range", ""), str) for one in figures)
    named = {one["name"]: one for one in figures}
    assert named["words / speculative / speedup"]["value"] == pytest.approx(9 / 4)
    assert named["words / beam / quality"]["value"] == 0.75
    assert named["words / beam / quality"]["range"] == named["words / greedy / quality"]["range"]


def test_what_could_not_be_checked_is_said_once(tmp_path: Path) -> None:
    run = Snapshot.of(made(tmp_path / "run", at("words", BEAM, scored(0.0), "2"), examples=3))
    other = Snapshot(run.about.model_copy(update={"hardware": "another"}),
                     Snapshot.of(made(tmp_path / "base", examples=3)).cells)
    report = check(run, other, [Quality(level=0.05), Speed(worse_by=0.1)], ("run", "base"))
    text = markdown(report)
    assert text.count("too few for a test of quality") == 1
    assert "- speed, 4 cells: the baseline was timed on other hardware" in text
    assert "all 5 checks passed, 5 not possible" in text.splitlines()[1]
    skipped = ElementTree.fromstring(junit(report)).iter("skipped")
    assert len(list(skipped)) == 5


def test_texts_that_are_no_xml_and_long_lists(tmp_path: Path) -> None:
    odd = "a\x00<&>|"
    def rename(record: Record) -> Record:
        return record.model_copy(update={"example": f"{odd}{record.example}"})
    base = Snapshot.of(made(tmp_path / "base", rename))
    run = Snapshot.of(made(tmp_path / "run", lambda record: wrong_token(rename(record))))
    report = check(run, base, DEFAULT, ("run", "base"))
    assert len(list(ElementTree.fromstring(junit(report)).iter("failure"))) == len(report.broken) == 6
    assert "a\x00&lt;&>\\|0" in markdown(report)
    many = report.model_copy(update={"findings": report.findings * 20})
    assert f"- {120 - LISTED} more broken rules are not listed" in markdown(many)
    assert len(markdown(many)) < 65_536


@pytest.mark.parametrize(("arguments", "words"), [
    (["fine"], "Give either --baseline FILE, to check the run, or --write FILE"),
    (["fine", "--baseline", "base.json", "--write", "x"], "Give either --baseline FILE"),
    (["absent", "--baseline", "base.json"], "absent holds no run"),
    (["fine", "--baseline", "absent.json"], "There is no baseline absent.json; write one with "),
    (["fine", "--baseline", "wrong/manifest.json"], "wrong/manifest.json is not a baseline of this version"),
    (["fine", "--baseline", "base.json", "--rules", "absent.toml"], "There is no rules file absent.toml."),
    (["fine", "--baseline", "base.json", "--rules", "wrong/manifest.json"], "wrong/manifest.json cannot be read"),
    (["fine", "--baseline", "other.json"], "fine cannot be compared with other.json: 'seed' is 0, not 7; check "),
    (["half", "--write", "half.json"], "half is not finished (beam:width=2 on words): repeat its `run` command "),
])
def test_wrong_input_is_one_sentence_and_exit_code_2(arguments: list[str], words: str, folders: Path) -> None:
    Path("other.json").write_text(Path("base.json").read_text().replace('"seed": 0', '"seed": 7'))
    half = made(Path("half"))
    half.path.write_text("".join(record.model_dump_json() + "\n" for record in list(half.records())[:-1]))
    before = sorted(path.name for path in folders.iterdir())
    done = call("check", *arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: {words}")
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in folders.iterdir()) == before


def test_a_slow_cell_is_broken_only_when_confirmed(folders: Path) -> None:
    slow = at("words", DRAFTING, slower(0.4), ())
    made(Path("slow"), slow, noise=1)
    made(Path("slow-again"), slow, noise=2)
    made(Path("fast"), noise=3)
    made(Path("before"), noise=4)
    Path("rules.toml").write_text('[[rule]]\nkind = "speed"\nworse_by = 0.1\n')
    arguments = ["check", "slow", "--baseline", "before", "--rules", "rules.toml"]
    assert [call(*arguments, *more).exit_code for more in ([], ["--confirm", "fast"], ["--confirm", "slow-again"])] == [
        1, 0, 1]


STUB = """#!/usr/bin/env bash
echo "$*" >> "$LOG"
[ "$1" = run ] && exit "${RUN_CODE:-0}"
out=$(dirname "${*: -1}"); mkdir -p "$out"; echo '### found' > "$out/summary.md"
echo '{"status": "broken"}' > "$out/check.json"
case "$*" in *--confirm*) exit "${AGAIN_CODE:-0}";; *) exit "${CHECK_CODE:-0}";; esac
"""


@pytest.mark.parametrize(("codes", "confirm", "calls", "code"), [
    ({}, "false", ["run", "check"], 0),
    ({"CHECK_CODE": "1"}, "false", ["run", "check"], 1),
    ({"CHECK_CODE": "1"}, "true", ["run", "check", "run", "check"], 0),
    ({"CHECK_CODE": "1", "AGAIN_CODE": "1"}, "true", ["run", "check", "run", "check"], 1),
    ({"RUN_CODE": "3"}, "false", ["run", "check"], 0),
    ({"RUN_CODE": "2"}, "true", ["run"], 2),
    ({"CHECK_CODE": "2"}, "true", ["run", "check"], 2)])
def test_the_action_runs_and_checks(codes: dict[str, str], confirm: str, calls: list[str], code: int,
                                    tmp_path: Path) -> None:
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    step = next(step for step in action["runs"]["steps"] if step.get("id") == "check")
    assert all(value == f"${{{{ inputs.{name.lower()} }}}}" for name, value in step["env"].items())
    assert set(map(str.lower, step["env"])) <= set(action["inputs"])
    stub = tmp_path / "bin" / "decodebench"
    stub.parent.mkdir()
    stub.write_text(STUB)
    stub.chmod(0o755)
    given = {"CONFIG": "c.toml", "BASELINE": "b file.json", "RULES": "r.toml", "OUTPUT": "out", "CONFIRM": confirm,
             "LOG": str(tmp_path / "log"), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary"),
             "GITHUB_OUTPUT": str(tmp_path / "output"), "PATH": f"{stub.parent}:{os.environ['PATH']}", **codes}
    done = subprocess.run(["bash", "-e", "-o", "pipefail", "-c", step["run"]], cwd=tmp_path, env=given, check=False)
    log = (tmp_path / "log").read_text().splitlines()
    assert done.returncode == code
    assert [line.split()[0] for line in log] == calls
    assert log[0] == "run --config c.toml -o out/run"
    if len(calls) > 1:
        assert log[1].startswith("check out/run --baseline b file.json --rules r.toml --junit out/junit.xml ")
        assert (tmp_path / "summary").read_text() == "### found\n"
        assert (tmp_path / "output").read_text() == "broken=1\n"
    if len(calls) > 2:
        assert log[2] == "run --config c.toml -o out/again"
        assert "--confirm out/again" in log[3]


def test_the_options_that_the_action_uses_exist() -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    known = call("check", "--help").stdout + call("run", "--help").stdout
    for option in ("--config", "--baseline", "--rules", "--confirm", "--junit", "--markdown", "--json", "--benchmark"):
        assert option in text
        assert option in known
