"""The figures of a large run are drawn in another process: they are those of a small one."""

from pathlib import Path

import pytest

from harness import report
from harness.report import figures
from tests.runs import realistic, write


@pytest.mark.slow
def test_figures_of_another_process_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    several = realistic(tmp_path / "several", examples=2)
    (task, *_) = several.manifest.tasks
    store = write(tmp_path / "run", several.manifest.model_copy(update={"tasks": [task]}),
                  [record for record in several.records() if record.task == task.spec])
    report.write([store], tmp_path / "here")
    monkeypatch.setattr(figures, "MANY", 1)
    monkeypatch.setattr(figures.plots, "files", None)  # of this process, which draws nothing
    report.write([store], tmp_path / "beside")
    here, beside = (sorted((tmp_path / name / "plots").iterdir()) for name in ("here", "beside"))
    assert [path.name for path in here] == [path.name for path in beside]
    assert here
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(here, beside, strict=True))
    assert (tmp_path / "here" / "index.html").read_bytes() == (tmp_path / "beside" / "index.html").read_bytes()
