"""Whole runs of models that read images: a task by file, drafts that see the text alone, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from harness.store.folder import Store
from harness.store.schema import Record
from tests import pair
from tests.program import call
from tests.seq2seq import saved as with_encoder
from tests.vision import COUNT, saved, task_file

ROWS = [{"image": "0.png", "prompt": "What is here? A"}, {"image": "1.png", "prompt": "What is here? A"},
        {"image": "1.png", "question": "How many?", "answer": "2"}, {"prompt": "No image: <image> is missing."}]
STRATEGIES = "greedy,speculative,prompt_lookup,top_p,uag,kv_prediction,dynamic_evaluation,canvas_threshold"


def decoded(folder: Path, *options: object, rows: Any = ROWS, code: int = 0) -> list[Record]:
    """Return the records of a run in its order."""
    done = call("run", "-m", saved(), "--task-file", task_file(folder.parent, rows), "--max-new-tokens", 8,
                "--threads", 1, "-o", folder, *options)
    assert done.exit_code == code, done.output
    return sorted(Store.open(folder).records(), key=lambda record: (record.strategy, record.example))


def test_a_run(tmp_path: Path) -> None:
    options = ("-s", STRATEGIES, "--draft", pair.saved("llama", 1))
    alone, batched = (decoded(tmp_path / str(size), *options, "--concurrency", size) for size in (1, 32))
    assert [record.turns[0].tokens for record in alone] == [record.turns[0].tokens for record in batched]
    answers = dict[str, list[list[int]]]()
    for record in alone:
        (turn,) = record.turns
        answers.setdefault(record.strategy.split(":")[0], []).append(turn.tokens)
        seen = 0 if record.example.endswith("/4") else COUNT
        assert turn.encoded == seen
        assert turn.prompt_tokens == len(turn.prompt.replace("<image>", "")) + max(1 - bool(seen), seen)
        assert turn.prompt.count("<image>") == 1
        assert turn.steps.positions[0] == turn.prompt_tokens - turn.prompt_shared
    assert answers["greedy"] == answers["speculative"] == answers["prompt_lookup"] == answers["uag"]
    assert answers["greedy"][0] != answers["greedy"][1]  # the same text with another image
    manifest = Store.open(tmp_path / "32").manifest
    reasons = {entry.name: entry.unsupported for entry in manifest.strategies if entry.unsupported}
    assert reasons.keys() == {"kv_prediction", "dynamic_evaluation", "canvas_threshold"}
    assert manifest.model.architecture == "LlavaForConditionalGeneration"


def test_another_image_is_another_task(tmp_path: Path) -> None:
    """A run goes on only if the images are the same; their files may lie elsewhere."""
    first = decoded(tmp_path / "run", "-s", "greedy", "--limit", 1)
    assert first == decoded(tmp_path / "run", "-s", "greedy", "--limit", 1)
    (tmp_path / "1.png").rename(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "0.png").read_bytes())
    done = call("run", "-m", saved(), "--task-file", tmp_path / "seen.jsonl", "--max-new-tokens", 8,
                "--threads", 1, "-o", tmp_path / "run", "-s", "greedy", "--limit", 1)
    assert done.exit_code == 2, done.output


@pytest.mark.parametrize(("row", "sentence"), [
    ({"image": "none.png", "prompt": "A"}, "cannot be read (No such file or directory)"),
    ({"image": "seen.jsonl", "prompt": "A"}, "is in no format that Pillow reads"),
    ({"image": 3, "prompt": "A"}, "the field 'image' must be text"),
    ({"image": "0.png", "prompt": "<image> or <image>"}, "says <image> 2 times, but a row has one image"),
], ids=["missing", "no image", "no text", "two places"])
def test_invalid_rows(row: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    done = call("run", "-m", saved(), "--task-file", task_file(tmp_path, [row]), "-s", "greedy", "-o", tmp_path / "run")
    assert done.exit_code == 2
    assert "line 1" in done.output
    assert sentence in " ".join(done.output.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("model", "options", "sentence"), [
    (None, (), "has images: nano reads text only; give a model of the class"),
    (with_encoder, ("bart",), "reads text only"),
    (saved, ("--backend", "vllm"), "is a model that reads images (llava); give one for text"),
    (saved, ("--compile",), "leave --compile out"), (saved, ("--rope", "linear:2"), "leave --rope out"),
    (saved, ("--head", "nothing"), "leave --head out"),
    (saved, ("--draft", saved, "-s", "speculative"), "reads images, and a draft model cannot; give one for text"),
], ids=["nano", "bart", "vllm", "compile", "rope", "head", "draft"])
def test_what_takes_other_models_only(model: Any, options: tuple[Any, ...], sentence: str, tmp_path: Path) -> None:
    name: Any = "nano" if model is None else model(*options) if model is with_encoder else model()
    given = [saved(1) if value is saved else value for value in options if value != "bart"]
    done = call("run", "-m", name, "--task-file", task_file(tmp_path, ROWS[:1]), "-s", "greedy", "-o",
                tmp_path / "run", *given)
    assert done.exit_code == 2, done.output
    assert sentence in " ".join(done.output.split())
    assert not (tmp_path / "run").exists()


def test_text_metrics_have_no_images(tmp_path: Path) -> None:
    rows = [{"task": {"open_ended": True}}, *ROWS[:1]]
    done = call("run", "-m", saved(), "--task-file", task_file(tmp_path, rows), "-s", "greedy", "-o", tmp_path / "run")
    assert done.exit_code == 2
    assert "leave open_ended out" in done.output
    assert json.loads((tmp_path / "seen.jsonl").read_text().splitlines()[1])["image"] == "0.png"
