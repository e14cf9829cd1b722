"""A third-party package, installed with pip, is listed, built and run; a duplicate name is refused."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = Path(__file__).parent / "sample_package"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sample package installed in it by pip, without a network."""
    source = shutil.copytree(SAMPLE, tmp_path_factory.mktemp("source") / "sample")
    target = tmp_path_factory.mktemp("installed")
    offline = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *offline, "--target", str(target), str(source)],
                   check=True)
    return target


def python(installed: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if key != "DECODEBENCH_PLUGINS"}
    path = os.pathsep.join(map(str, (installed, ROOT)))
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=installed,
                          env={**clean, "PYTHONPATH": path, "COLUMNS": "80", **environment})


def names(kind: str, installed: Path, **environment: str) -> list[str]:
    done = python(installed, "-m", "harness.cli", "list", kind, "--json", **environment)
    assert done.returncode == 0, done.stderr
    return [row["name"] for row in json.loads(done.stdout)]


def test_it_is_listed_with_where_it_comes_from(installed: Path) -> None:
    done = python(installed, "-m", "harness.cli", "list", "strategies")
    assert "runner_up (the package 'decodebench-sample' (decodebench_sample))" in " ".join(done.stdout.split())
    assert "counting" in names("tasks", installed)
    assert "greedy" in names("strategies", installed)


def test_it_is_built_and_shown(installed: Path) -> None:
    code = ("from harness.plugins.registry import STRATEGIES, TASKS\n"
            "from harness.plugins.data import DataSource\n"
            "print(STRATEGIES.build('runner_up:rank=3').spec(), len(TASKS.build('counting').examples(DataSource())))")
    assert python(installed, "-c", code).stdout.strip() == "runner_up:rank=3 2"
    shown = python(installed, "-m", "harness.cli", "show", "runner_up")
    assert shown.returncode == 0, shown.stderr
    assert "decodebench run -s 'runner_up:rank=1'" in shown.stdout


def test_it_runs(installed: Path, tmp_path: Path) -> None:
    from tests.pair import saved

    done = python(installed, "-m", "harness.cli", "run", "-m", str(saved("llama")), "-s", "runner_up:rank=1",
                  "-t", "counting", "--threads", "1", "-o", str(tmp_path / "run"), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in (tmp_path / "run/records/0000.jsonl").read_text().splitlines()]
    texts = {(r["strategy"], r["example"]): r["turns"][0]["tokens"] for r in records}
    assert len(texts) == 4
    assert all(texts["greedy", example] == texts["runner_up:rank=1", example] for example in ("one", "five"))


def test_an_allow_list_limits_what_is_found(installed: Path) -> None:
    assert "runner_up" in names("strategies", installed, DECODEBENCH_PLUGINS="other, decodebench_sample")
    assert "runner_up" not in names("strategies", installed, DECODEBENCH_PLUGINS="other")
    assert "counting" not in names("tasks", installed, DECODEBENCH_PLUGINS="")


def test_a_taken_name_is_refused_and_both_owners_are_named(installed: Path, tmp_path: Path) -> None:
    twin = shutil.copytree(installed, tmp_path / "twin")
    [points] = twin.glob("*.dist-info/entry_points.txt")
    points.write_text(re.sub(r"^runner_up\b", "greedy", points.read_text(), flags=re.MULTILINE))
    done = python(twin, "-m", "harness.cli", "list", "strategies")
    assert done.returncode == 2
    assert "'greedy' is defined twice" in done.stderr
    assert str(ROOT / "strategies" / "greedy.py") in done.stderr
    assert "'decodebench-sample' (decodebench_sample)" in done.stderr
    assert done.stderr.count("\n") == 1
    assert "greedy" in names("strategies", twin, DECODEBENCH_PLUGINS="")
