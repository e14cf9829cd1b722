"""`study` prints the table of a study, and writes it with its plot; the study here is written by the test."""

from pathlib import Path

import pytest

from harness.plugins.registry import STUDIES
from tests.program import call

HALVES = '''
"""Halves: how often a number can be halved."""

from dataclasses import dataclass
from typing import ClassVar

import pandas as pd

from harness.plugins.study import Setting, Study, knob


@dataclass(frozen=True)
class Halves(Study):
    most: int = knob(3, "halvings", low=1, high=9)
    paper: ClassVar[str] = "none"

    def table(self, setting: Setting) -> pd.DataFrame:
        setting.say("Halving")
        rows = [(setting.config.model, n, 2.0 ** -n if n else float("nan"), 1500.25) for n in range(self.most + 1)]
        return pd.DataFrame(rows, columns=["model", "halvings", "left", "cost"])

    def plot(self, table, axes):
        axes.plot(table["halvings"], table["left"])
'''


@pytest.fixture
def halves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "halves.py"
    file.write_text(HALVES)
    monkeypatch.setattr(STUDIES, "_files", {})
    return file


def test_a_study_prints_a_table_and_writes_it_with_a_plot(halves: Path, tmp_path: Path) -> None:
    done = call("study", "halves:most=2", "--plugin", halves, "-o", tmp_path / "out")
    assert done.exit_code == 0
    rows = [line.split() for line in done.stdout.splitlines()[3:6]]
    assert rows == [["nano", "0", "1,500"], ["nano", "1", "0.5", "1,500"], ["nano", "2", "0.25", "1,500"]]
    assert (tmp_path / "out" / "halves.csv").read_text().splitlines()[-1] == "nano,2,0.25,1500.25"
    assert (tmp_path / "out" / "halves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("arguments", "sentence"), [
    (["halfs"], "There is no study 'halfs'. Did you mean 'halves'?"),
    (["halves:most=0"], "halves: knob 'most' must be at least 1, not 0."),
    (["halves", "-m", "nanoo"], "nanoo"),
])
def test_a_wrong_word_is_refused_before_anything_is_written(
        arguments: list[str], sentence: str, halves: Path, tmp_path: Path) -> None:
    done = call("study", *arguments, "--plugin", halves, "-o", tmp_path / "out")
    assert (done.exit_code, sentence in done.stderr) == (2, True)
    assert not (tmp_path / "out").exists()
