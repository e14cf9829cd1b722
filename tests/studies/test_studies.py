"""What every study refuses before it loads a model."""

from pathlib import Path

import pytest

from harness.plugins.registry import STUDIES
from tests.program import call

OPTIONS = {"draft": ("--draft", "nano-draft"), "tasks": ("-t", "nano_math"), "limit": ("--limit", "2")}


@pytest.mark.parametrize("name", STUDIES.built_in())
def test_a_study_refuses_options_that_it_does_not_heed(name: str, tmp_path: Path) -> None:
    heeds = STUDIES.get(name).heeds
    assert heeds <= OPTIONS.keys()
    for setting in OPTIONS.keys() - heeds:
        done = call("study", name, *OPTIONS[setting], "-o", tmp_path / "out")
        assert (done.exit_code, f"The study {name} has no use for --" in done.stderr) == (2, True)
    assert not (tmp_path / "out").exists()


def test_a_task_without_a_length_is_refused(tmp_path: Path) -> None:
    done = call("study", "rope_extension", "-t", "nano_math", "-o", tmp_path / "out")
    assert (done.exit_code, "needs a task with a knob 'length'" in done.stderr) == (2, True)
