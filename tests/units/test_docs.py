"""Pages that are made from the code say what the code says, and the task page runs."""

import re
from pathlib import Path

import pytest

from harness.config import RunConfig
from harness.registry import TASKS
from harness.report.catalogue import catalogue
from harness.runner import run
from harness.store import Store
from tests.pair import saved
from tests.watch import Quiet

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_the_catalogue_is_true() -> None:
    assert (DOCS / "catalogue.md").read_text(encoding="utf-8") == catalogue(), \
        "make it again: python -m harness.report.catalogue > docs/catalogue.md"


def test_the_task_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TASKS, "_files", {})
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "writing-a-task.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "capitals.py").write_text(blocks[0])
    config = RunConfig(model=str(saved("llama")), tasks=("capitals",), strategies=("top_p",), device="cpu", threads=1,
                       plugins=(tmp_path / "capitals.py",), output=tmp_path / "run")
    outcome = run(config, Quiet(), "decodebench run")
    assert (outcome.samples, outcome.failed) == (6, 0)
    assert all(set(record.scores) == {"exact"} for record in Store.open(outcome.folder).records())
