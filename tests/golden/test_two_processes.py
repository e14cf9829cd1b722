"""The samples and figures of a large run are another process's work: its report is that of a small one."""

from pathlib import Path

import pytest

from harness import report
from harness.report import page_samples, plots, worker
from tests.runs import realistic, write


@pytest.mark.slow
def test_two_processes_write_the_same_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = realistic(tmp_path / "several", examples=2)
    (task, *_) = several.manifest.tasks
    store = write(tmp_path / "run", several.manifest.model_copy(update={"tasks": [task]}),
                  [record for record in several.records() if record.task == task.spec])
    report.write([store], tmp_path / "one")
    monkeypatch.setattr(worker, "MANY", 1)
    monkeypatch.setattr(plots, "files", None)  # of this process, which draws nothing
    monkeypatch.setattr(page_samples.Rows, "add", None)  # and reads no answers
    report.write([store], tmp_path / "two")
    one, two = ({path.relative_to(tmp_path / name): path.read_bytes()
                 for path in (tmp_path / name).rglob("*") if path.is_file()} for name in ("one", "two"))
    assert len(one) > 10
    assert one == two
