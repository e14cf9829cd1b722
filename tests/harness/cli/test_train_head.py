import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from harness.models.trained_head import CARD, WEIGHTS
from harness.store.folder import Store
from harness.store.schema import HeadEntry
from tests.program import call as invoked


def call(*arguments: str) -> tuple[int, str, str]:
    result = invoked(*arguments)
    return result.exit_code, result.stdout, result.stderr


SMALL = ("-t", "nano_math", "--limit", "20", "--max-new-tokens", "8", "--steps", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("heads") / "medusa"
    code, out, err = call("train-head", "medusa:heads=2", *SMALL, "-o", str(place), "--licence", "Apache-2.0")
    assert (code, out.strip()) == (0, str(place)), err
    assert "nano answers 18 prompts (train)" in err
    assert "step 2 of 2" in err
    return place


def test_a_trained_head_is_a_card_and_weights(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [CARD, WEIGHTS]
    again, _, err = call("train-head", "eagle", *SMALL, "-o", str(folder.with_name("eagle")))
    assert again == 0
    assert "answers 18 prompts" not in err, "the answers of the first call are taken"


def test_heads_are_listed_with_their_licence(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                             ) -> None:
    for kind, card in (("empty", ""), ("other", "[1]")):
        (tmp_path / "heads" / kind).mkdir(parents=True)
        (tmp_path / "heads" / kind / CARD).write_text(card)
    (tmp_path / "heads" / "medusa").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    code, out, _ = call("list", "heads", "--json")
    found = {row["name"]: row for row in json.loads(out)}
    right = " ".join(f"{row[0]:.2f}" for row in json.loads((folder / CARD).read_text())["ranks"])
    assert code == 0
    assert found["heads/medusa"] == {"name": "heads/medusa", "origin": "Apache-2.0",
                                     "idea": f"medusa for nano, 0.9 M parameters, right by depth {right}"}
    assert {found[f"heads/{kind}"]["idea"] for kind in ("empty", "other")} == {"broken: head.json is no card of a head"}


def test_a_run_takes_a_head_and_is_told_apart_by_it(folder: Path, tmp_path: Path) -> None:
    run = ("run", "-s", "medusa:nodes=4,chimera,typical_acceptance:over=medusa", "-t", "nano_math", "--limit", "1",
           "--max-new-tokens", "8", "--quiet", "-o", str(tmp_path / "run"))
    code, _, err = call(*run, "--head", str(folder))
    assert code == 0, err
    entries = {entry.name: entry for entry in Store.open(tmp_path / "run").manifest.strategies}
    assert entries["medusa"].unsupported is None
    assert entries["typical_acceptance"].unsupported is None
    assert entries["typical_acceptance"].head == entries["medusa"].head
    assert "head" in entries["medusa"].files
    ranks = json.loads((folder / CARD).read_text())["ranks"]
    assert entries["medusa"].head == HeadEntry(name=str(folder), kind="medusa", parameters=860544,
                                               right=[row[0] for row in ranks])
    assert entries["chimera"].unsupported == ("needs a trained head: give one with --head, or train one with "
                                              "'decodebench train-head chimera'")
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert f"{folder} (860,544 parameters)" in page
    assert f"-m nano --head {folder} -s medusa" in page
    answers = {record.strategy: record.turns[0] for record in Store.open(tmp_path / "run").records()}
    greedy, medusa = answers["greedy"], answers[entries["medusa"].spec]
    assert greedy.tokens == medusa.tokens
    assert sum(medusa.steps.draft_forwards) == len(medusa.steps.tokens) - 1
    code, _, err = call(*run)
    assert code == 2
    assert "strategies differs" in err or "holds another run" in err


@pytest.mark.parametrize(("arguments", "words"), [
    (("greedy",), "'greedy' has no trained head of its own"),
    (("eagle2",), "it drafts with that of 'eagle'"),
    (("medusar",), "Did you mean 'medusa'"),
    (("medusa:heads=none",), "The setting 'heads' of the head is 'none'"),
    (("medusa", "-t", "nano_math", "--limit", "3"), "3 prompts are too few to train a head; give 20 or more"),
    (("medusa", "-m", "nanoo"), "There is no model 'nanoo'"),
    (("eagle:heads=5",), "5 attention heads do not divide hidden states of 192 numbers"),
    (("medusa", "-t", "nano_math", "--limit", "20", "--max-new-tokens", "1"), "No answer has two tokens"),
    (("medusa", "-t", "nano_math", "--limit", "20", "--max-new-tokens", "8", "--budget", "0.000001"), "raise --budget"),
])
def test_what_cannot_be_trained_is_said_in_a_sentence(arguments: tuple[str, ...], words: str, tmp_path: Path) -> None:
    code, out, err = call("train-head", *arguments, "-o", str(tmp_path / "head"))
    assert (code, out) == (2, "")
    assert words in err
    assert [line for line in err.splitlines() if not line.startswith("nano answers")] == [err.splitlines()[-1]]
    assert not (tmp_path / "head").exists()


def test_two_heads_of_a_kind_are_refused(folder: Path, tmp_path: Path) -> None:
    code, _, err = call("run", "-s", "medusa", "-t", "nano_math", "--limit", "1", "--head", str(folder), "--head",
                        str(folder), "-o", str(tmp_path / "run"))
    assert code == 2
    assert "are both heads of the kind 'medusa'" in err
    assert not (tmp_path / "run").exists()


def test_a_finished_run_is_not_answered_again_with_another_head(folder: Path, tmp_path: Path) -> None:
    """At the same place, and retrained."""
    head = Path(shutil.copytree(folder, tmp_path / "head"))
    run = ("run", "-s", "medusa:nodes=4", "-t", "nano_math", "--limit", "1", "--max-new-tokens", "8", "--quiet", "-o",
           str(tmp_path / "run"), "--head", str(head))
    assert call(*run)[0] == call(*run)[0] == 0
    weights = load_file(head / WEIGHTS)
    save_file({name: weight + 1 for name, weight in weights.items()}, head / WEIGHTS)
    code, _, err = call(*run)
    assert code == 2
    assert "holds another run" in err


def test_a_head_drafts_on_transformers_only(folder: Path, tmp_path: Path) -> None:
    code, _, err = call("run", "-s", "greedy", "-t", "nano_math", "--limit", "1", "--backend", "openai", "--base-url",
                        "http://localhost:1/v1", "--head", str(folder), "-o", str(tmp_path / "run"))
    assert code == 2
    assert "leave --head or --backend openai out" in err


def test_a_head_that_cannot_be_tuned_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    code, _, err = call("train-head", "eagle3", *SMALL, "--tune", str(tmp_path / "model"), "-o", str(tmp_path / "head"))
    assert code == 2
    assert "leave --tune out" in err
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_tuned_model_is_new(tmp_path: Path) -> None:
    code, _, err = call("train-head", "medusa", *SMALL, "--tune", str(tmp_path), "-o", str(tmp_path / "head"))
    assert (code, err.strip()) == (2, f"Error: {tmp_path} exists: give --tune a new folder for the model.")
    code, _, err = call("train-head", "medusa", *SMALL, "--schedule", "sine", "-o", str(tmp_path / "head"))
    assert code == 2
    assert "give --tune DIR" in err
    assert list(tmp_path.iterdir()) == []
