"""What `sweep` and `limits` do with a server: what they can, and a sentence on what they cannot."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.plugins.registry import STRATEGIES, TASKS
from tests.completions import Body, serving
from tests.pair import saved
from tests.plugins import TASK
from tests.program import call


@pytest.fixture
def words(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "words.py").write_text(TASK)
    yield tmp_path / "words.py"
    STRATEGIES._files.clear()
    TASKS._files.clear()


def by_temperature(body: Body) -> list[list[int]]:
    """Longer answers, which score higher, where the temperature is 0.5."""
    return [[8], [9] * (3 if body["temperature"] == 0.5 else 1)]


def options(words: Path, url: str) -> tuple[object, ...]:
    return ("--backend", "openai", "--base-url", url, "-m", "toy", "--tokenizer", saved("llama"), "-t", "words",
            "--plugin", words, "--threads", 1, "--device", "cpu")


def test_a_sweep_selects_settings_of_a_server_by_quality(words: Path, tmp_path: Path) -> None:
    with serving(say=by_temperature) as server:
        done = call("sweep", *options(words, server.url), "-s", "temperature", "--grid", "temperature=0.5,1",
                    "-o", tmp_path / "sweep")
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "With a server, a sweep tries the settings that a request can have, by quality or speed" in said
    assert "temperature=0.5" in (tmp_path / "sweep" / "sweep.md").read_text()


def test_a_server_is_not_swept_by_forwards(words: Path) -> None:
    done = call("sweep", *options(words, "http://127.0.0.1:9/v1"), "-s", "temperature", "--by", "forwards")
    assert done.exit_code == 2
    assert done.stderr.strip() == ("Error: A server does not tell its forward passes: use --by quality or --by speed.")


def test_limits_of_a_server_are_its_speed_ups_by_concurrency(words: Path, tmp_path: Path) -> None:
    runs = []
    with serving() as server:
        for size in (1, 2):
            runs.append(tmp_path / f"run{size}")
            done = call("run", *options(words, server.url), "-s", "temperature", "--concurrency", size, "--no-texts",
                        "-o", runs[-1])
            assert done.exit_code == 0, done.output
    done = call("limits", *runs)
    assert done.exit_code == 0, done.output
    assert "The forward passes of a server cannot be timed from here" in " ".join(done.output.split())
    assert "Break-even" in done.output
    assert not any((run / "limits.json").exists() for run in runs)
