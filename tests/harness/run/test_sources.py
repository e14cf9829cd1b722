"""Whole runs of encoder-decoder models: the prompt is the source, and what cannot run says why."""

from pathlib import Path

import pytest

from harness.store.folder import Store
from harness.store.schema import Record
from tests.program import call
from tests.seq2seq import LONGEST, saved

STRATEGIES = "greedy,prompt_lookup,speculative,beam:width=3,guidance,window,medusa,quest"


def decoded(folder: Path, *options: object, kind: str = "bart", code: int = 0) -> list[Record]:
    """Return the records of a run in its order."""
    done = call("run", "-m", saved(kind), "-t", "nano_summary", "--limit", 3, "--max-new-tokens", 10, "--threads", 1,
                "-o", folder, *options)
    assert done.exit_code == code, done.output
    return sorted(Store.open(folder).records(), key=lambda record: (record.strategy, record.example))


@pytest.mark.parametrize("kind", ["bart", "t5", "marian"])
def test_a_run(kind: str, tmp_path: Path) -> None:
    options = ("-s", STRATEGIES, "--draft", saved(kind, 1), "--truncate-prompts")
    alone, batched = (decoded(tmp_path / str(size), *options, "--concurrency", size, kind=kind) for size in (1, 32))
    assert [record.turns[0].tokens for record in alone] == [record.turns[0].tokens for record in batched]
    answers = dict[str, list[list[int]]]()
    for record in batched:
        (turn,) = record.turns
        answers.setdefault(record.strategy.split(":")[0], []).append(turn.tokens)
        assert turn.encoded == turn.prompt_tokens > 1
        assert turn.prompt_tokens <= LONGEST or kind == "t5"
        assert turn.steps.positions[0] == 1 or record.strategy.startswith("beam")
    assert answers["greedy"] == answers["prompt_lookup"] == answers["speculative"]
    assert sorted(answers) == ["beam", "greedy", "prompt_lookup", "speculative"]
    reasons = {entry.name: entry.unsupported for entry in Store.open(tmp_path / "32").manifest.strategies
               if entry.unsupported}
    assert reasons.keys() == {"guidance", "window", "medusa", "quest"}
    assert all("encoder reads the prompt" in reasons[name] for name in ("guidance", "window", "quest"))
    assert "decoder-only" in reasons["medusa"]


def test_long_sources_are_cut_as_prompts_are(tmp_path: Path) -> None:
    """A source may be as long as the table of positions, whatever the length of the answer is."""
    records = decoded(tmp_path / "whole", "-s", "greedy", code=3)
    failed = [record for record in records if record.status == "failed"]
    assert failed
    assert all("--truncate-prompts" in (record.error or "") for record in failed)
    cut = [turn for record in decoded(tmp_path / "cut", "-s", "greedy", "--truncate-prompts") for turn in record.turns
           if turn.prompt_cut]
    assert len(cut) == len(failed)
    assert {turn.prompt_tokens for turn in cut} == {LONGEST}
    assert {len(turn.tokens) for turn in cut} == {10}


@pytest.mark.parametrize(("options", "sentence"), [
    (("--backend", "vllm"), "give a decoder-only one"), (("--head", "nothing"), "leave --head out"),
    (("--scorer", "another"), "give a decoder-only one"), (("--rope", "linear:2"), "leave --rope out"),
    (("--backend", "openai", "--base-url", "http://localhost:1/v1"), "give a decoder-only one"),
], ids=lambda value: value[0].strip("-") if isinstance(value, tuple) else "")
def test_what_takes_other_models_only(options: tuple[object, ...], sentence: str, tmp_path: Path) -> None:
    given = [saved("bart") if value == "another" else value for value in options]
    done = call("run", "-t", "nano_summary", "-o", tmp_path / "run", "-m", saved("t5"), *given)
    assert done.exit_code == 2
    assert sentence in done.output
    assert "encoder-decoder model (" in done.output
    assert not (tmp_path / "run").exists()


def test_verify_takes_other_models_only() -> None:
    done = call("verify", "-m", saved("t5"), "-s", "prompt_lookup")
    assert done.exit_code == 2
    assert "give a decoder-only one" in done.output
