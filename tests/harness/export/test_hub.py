"""A run on the hub, up to the call: the files, the card, and what is left out."""

import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pandas as pd
import pytest
import yaml

from harness.store.folder import Store
from tests.program import call
from tests.runs import manifest, record, strategy, task, turn

SECRET = "Who owns the zebra?"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    records = [record("nano_math", str(n), spec, [turn([1, 2], [0.1, 0.2], prompt=SECRET)], score=float(n))
               for n in range(2) for spec in ("greedy", "top_p")]
    with Store.begin(tmp_path / "run", manifest([strategy("greedy"), strategy("top_p")], [task("nano_math")])) as store:
        for one in records:
            store.append(one)
    return tmp_path / "run"


class Hub:
    """Keeps what would be sent."""

    calls: list[tuple[str, dict[str, Any]]]
    kept: Path

    def create_repo(self, repo: str, **options: Any) -> str:
        self.calls.append((repo, options))
        return f"https://hub/{repo}"

    def upload_folder(self, *, folder_path: str, repo_id: str, repo_type: str, commit_message: str) -> None:
        assert (repo_id, repo_type, commit_message) == ("me/run", "dataset", "nano: 2 strategies")
        shutil.copytree(folder_path, self.kept)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Hub]:
    Hub.calls, Hub.kept = [], tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)
    return Hub


def texts(folder: Path) -> str:
    return "".join(path.read_text(encoding="utf-8", errors="replace") for path in folder.rglob("*") if path.is_file())


def test_a_run_is_published_without_prompts(run: Path, hub: type[Hub]) -> None:
    done = call("push", run, "me/run", "--private")
    assert (done.exit_code, "https://hub/me/run" in done.stdout) == (0, True)
    assert hub.calls == [("me/run", {"repo_type": "dataset", "private": True, "exist_ok": True})]
    assert SECRET not in texts(hub.kept)
    assert SECRET not in str(pd.read_parquet(hub.kept / "samples.parquet").to_dict())
    head, _, card = (hub.kept / "README.md").read_text().removeprefix("---\n").partition("---\n")
    assert {one["data_files"] for one in yaml.safe_load(head)["configs"]} == {"samples.parquet", "steps.parquet"}
    assert "| `top_p` | 2 |" in card
    assert len(list(Store.open(hub.kept / "run").records())) == 4
    assert (hub.kept / "report" / "index.html").exists()
    assert not list((hub.kept / "run").glob("run.lock*"))


def test_prompts_are_published_if_asked_for(run: Path, hub: type[Hub]) -> None:
    assert call("push", run, "me/run", "--prompts").exit_code == 0
    assert SECRET in texts(hub.kept / "run")


def test_a_refusal_is_one_sentence(run: Path, hub: type[Hub], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Hub, repo: str, **options: Any) -> str:
        raise OSError("Token is required. Call login")
    monkeypatch.setattr(hub, "create_repo", refuse)
    done = call("push", run, "me/run")
    assert (done.exit_code, done.stderr.startswith("Error: The hub refused me/run: Token is required.")) == (2, True)
    assert "hf auth login" in done.stderr
