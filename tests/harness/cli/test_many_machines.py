"""What a person types for several machines: job files, shards of Slurm arrays, `status` and `merge`."""

import os
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.program import call

RUN = ["-m", "nano", "-t", "nano_math", "-s", "greedy,top_p:p=0.9", "-o", "runs/a b"]
LOGGED = """#!/bin/bash
echo "$(printf '%s|' "$@")gpu=$CUDA_VISIBLE_DEVICES" >> "$LOG"
"""


def ran(script: str, folder: Path, **environment: str) -> list[str]:
    """Return the calls that a job file makes, with a program that only logs them."""
    program, log = folder / "bin" / "decodebench", folder / "log"
    program.parent.mkdir(exist_ok=True)
    program.write_text(LOGGED)
    program.chmod(0o755)
    subprocess.run(["bash", "-c", script], check=True, cwd=folder, env={
        "PATH": f"{program.parent}:{os.environ['PATH']}", "LOG": str(log), **environment})
    return sorted(log.read_text().splitlines())


def test_the_shell_script_runs_all_shards_and_merges_them(tmp_path: Path) -> None:
    lines = ran(call("plan-jobs", "--shell", 2, *RUN).stdout, tmp_path)
    options = "|".join(RUN)
    assert lines == ["merge|runs/a b|gpu=", *(f"run|{options}|--quiet|--shard|{n}/2|gpu={n - 1}" for n in (1, 2))]


def test_a_slurm_job_runs_its_shard(tmp_path: Path) -> None:
    script = call("plan-jobs", "--slurm", 3, *RUN).stdout
    assert "#SBATCH --array=1-3\n" in script
    assert ran(script, tmp_path, SLURM_ARRAY_TASK_ID="2") == [f"run|{'|'.join(RUN)}|--shard|2/3|gpu="]


def test_a_skypilot_node_runs_its_shard(tmp_path: Path) -> None:
    job = yaml.safe_load(call("plan-jobs", "--skypilot", 3, *RUN).stdout)
    assert job["num_nodes"] == 3
    (tmp_path / "runs" / "a b" / "shard-3-of-3").mkdir(parents=True)
    script = job["run"].replace("/shards/", f"{tmp_path}/kept/")
    (tmp_path / "kept").mkdir()
    assert ran(script, tmp_path, SKYPILOT_NODE_RANK="2", SKYPILOT_NUM_NODES="3") == [
        f"run|{'|'.join(RUN)}|--shard|3/3|gpu="]
    assert (tmp_path / "kept" / "shard-3-of-3").is_dir()


@pytest.mark.parametrize(("arguments", "sentence"), [
    (RUN, "Give one of --slurm N, --skypilot N and --shell N"),
    (["--slurm", "2", "--shell", "2", *RUN], "Give one of"),
    (["--slurm", "2", "-m", "nano"], "Give the folder of all shards with --output."),
    (["--slurm", "2", *RUN, "--shard", "1/2"], "Leave --shard out"),
    (["--slurm", "2", *RUN, "--ray"], "Leave --ray out"),
    (["--slurm", "2", *RUN, "--precision", "0.1"], "Leave --precision out"),
    (["--slurm", "2", *RUN, "--limt", "3"], "No such option: --limt"),
    (["--slurm", "0", *RUN], "--slurm"),
])
def test_wrong_options_are_refused(arguments: list[str], sentence: str) -> None:
    done = call("plan-jobs", *arguments)
    assert (done.exit_code, sentence in done.stderr, done.stdout) == (2, True, "")


def test_shards_of_an_array_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["-t", "nano_math", "-s", "prompt_lookup", "--limit", 2, "--max-new-tokens", 4, "--threads", 1, "--quiet",
               "-o", tmp_path / "run"]
    monkeypatch.setenv("SLURM_ARRAY_TASK_COUNT", "2")
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "1")
    first = call("run", *options)
    assert (first.exit_code, "shard 2/2" in first.stderr) == (0, True)
    assert call("merge", tmp_path / "run").exit_code == 3
    monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
    assert call("run", *options).exit_code == 0
    rows = [line.split() for line in call("status", tmp_path / "run").stdout.splitlines() if "shard-" in line]
    assert [row[1:4] for row in rows] == [["2", "0", "0"], ["2", "0", "0"]]
    done = call("merge", tmp_path / "run")
    assert (done.exit_code, "prompt_lookup" in done.stdout, "Not complete" in done.stdout) == (0, True, False)


def test_status_and_merge_refuse_other_folders(tmp_path: Path) -> None:
    for arguments in (["status", tmp_path], ["merge", tmp_path]):
        done = call(*arguments)
        assert (done.exit_code, "holds no run" in done.stderr) == (2, True)
    done = call("merge", tmp_path, tmp_path)
    assert (done.exit_code, "with -o" in done.stderr) == (2, True)
