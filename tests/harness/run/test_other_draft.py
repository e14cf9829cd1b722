"""A draft model with another vocabulary than the target: who may load it, and runs with it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch

from harness.engine.kept_prefix import KeptPrefixes
from harness.engine.session import Session
from harness.errors import UserError
from harness.models.loading import load
from harness.plugins.registry import STRATEGIES, TASKS
from harness.run.loading import load_draft
from harness.store.config import RunConfig
from harness.verify.checker import verify
from harness.verify.distribution import Distribution
from tests import vocabularies
from tests.models import tiny_model
from tests.pair import saved
from tests.plugins import TASK

BOTH = ("tli", "uag")


@cache
def other() -> Path:
    """Return the folder of a tiny model of a trained vocabulary, with three logits more than it has tokens."""
    folder, words = Path(mkdtemp(prefix="decodebench-other-")), vocabularies.byte_level()
    tiny_model("llama", vocab=len(words) + 3, seed=1).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def config(strategies: Sequence[str], plugins: Sequence[Path] = ()) -> RunConfig:
    return RunConfig(model=str(saved("llama")), draft=str(other()), device="cpu", dtype="float32", threads=1,
                     strategies=tuple(strategies), plugins=tuple(plugins), tasks=("words",), max_new_tokens=12,
                     concurrency=3)


@pytest.mark.parametrize("spec", [*BOTH, "tli+repetition_penalty", "kl_acceptance:over=tli",
                                  "cascade:members=prompt_lookup>tli"])
def test_a_strategy_that_translates_gets_the_draft_model(spec: str) -> None:
    target = load(str(saved("llama")))
    given = replace(config([spec]), tokenizer=target.name)
    draft = load_draft(given, target, [STRATEGIES.build(spec)])
    assert draft
    assert draft.engine.translation
    assert len(draft.engine.translation.pairs) == target.vocab, "every byte and special token is in both"
    assert (target.vocab, draft.vocab) == (259, len(vocabularies.byte_level()) + 3)


@pytest.mark.parametrize("spec", ["speculative", "speculative+repetition_penalty", "kl_acceptance",
                                  "cascade:members=prompt_lookup>speculative"])
def test_any_other_strategy_refuses_it_for_all(spec: str) -> None:
    target = load(str(saved("llama")))
    with pytest.raises(UserError, match="do not share a vocabulary; give a draft model of the same family"):
        load_draft(config([spec]), target, [STRATEGIES.build("tli"), STRATEGIES.build(spec)])


def test_the_same_vocabulary_needs_no_translation() -> None:
    target = load(str(saved("llama")))
    draft = load_draft(RunConfig(model=target.name, draft=str(saved("llama", 1)), device="cpu", dtype="float32"),
                       target, [STRATEGIES.build("tli")])
    assert draft
    assert draft.engine.translation is None


@pytest.mark.parametrize("name", BOTH)
def test_verify_runs_with_it(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts share a prefix, which the draft model computes in its own tokens."""
    monkeypatch.setattr(TASKS, "_files", {})
    words = tmp_path / "words.py"
    words.write_text(TASK)
    report = verify(config([name], [words]), (Distribution(1.0),), 24)
    assert report.ok
    assert not report.skipped
    assert {finding.temperature for finding in report.findings} == {"0", "1"}
    assert all("draft" not in finding.shares for finding in report.findings)


@torch.inference_mode()
def test_a_prefix_is_kept_in_the_tokens_of_the_draft_model() -> None:
    target = load(str(saved("llama")))
    draft = load_draft(config(BOTH), target, [STRATEGIES.build("tli")])
    assert draft
    assert draft.engine.translation
    prompt = target.tokenizer(vocabularies.TEXT)["input_ids"][:60]
    own, kept, found = draft.engine.translation.to_draft(prompt), KeptPrefixes(draft.engine), list[torch.Tensor]()
    for _ in range(2):
        kept.pin(prompt)
        assert draft.engine.prefixes[0].tokens == own
        session = Session(draft.engine)
        session.follow([*own, 7])
        found.append(session.read().logits)
        assert (session.work.shared, session.work.positions) == (len(own), 1)
        session.close()
    draft.engine.unpin()
    session = Session(draft.engine)
    session.follow([*own, 7])
    torch.testing.assert_close(found[0], session.read().logits)
    assert torch.equal(found[0], found[1])
    session.close()
    draft.engine.max_len = 20
    kept.pin(prompt[:50])
    assert draft.engine.prefixes[0].tokens == own[:20]
    draft.engine.unpin()
