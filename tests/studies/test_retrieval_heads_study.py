"""Retrieval heads: what is drawn, what masking does to a model whose head copies, and the table of nano."""

from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

import studies.retrieval_heads
from harness.engine.attention_hooks import MaskedHeads
from harness.errors import UserError
from harness.models.loading import load
from harness.models.prompts import encode
from harness.plugins.study import Setting
from harness.run.runner import run
from harness.store.config import RunConfig
from harness.store.folder import Store
from strategies.tools.retrieval_heads import haystacks_of, needle_of
from studies.retrieval_heads import RetrievalHeads, others
from tests.watch import Quiet

SMALL = RetrievalHeads(longest=64, lengths=1, depths=2, needles=2, draws=2)


def said(text: str) -> None:
    assert text


def test_other_heads_are_below_the_first_third() -> None:
    ranked = [(layer, head) for layer in range(4) for head in range(3)]
    drawn = others(ranked, 3, 200, 0)
    assert len(drawn) == 200
    assert all(len(set(heads)) == 3 for heads in drawn)
    assert {head for heads in drawn for head in heads} == set(ranked[4:])
    assert drawn == others(ranked, 3, 200, 0) != others(ranked, 3, 200, 1)


@torch.inference_mode()
def test_an_answer_without_masked_heads_is_the_first_line_of_greedy(tmp_path: Path) -> None:
    run(RunConfig(tasks=("nano_needle:length=64,depths=2,needles=1",), strategies=("greedy",), max_new_tokens=20,
                  output=tmp_path / "run"), Quiet(), "")
    model = load("nano")
    prompt = haystacks_of(model, 64, 1, 1, 1)[0]
    for record in Store.open(tmp_path / "run").records():
        ids = encode(model, record.turns[0].prompt)
        for since in ("answer", "prompt"):
            line = RetrievalHeads(since=since).answer(model, prompt._replace(tokens=ids), MaskedHeads(frozenset()))
            assert line.startswith(record.turns[0].text)


@torch.inference_mode()
def test_masking_from_the_prompt_on_changes_more() -> None:
    """If all heads are masked from the first token on, no answer says what the prompt says."""
    model = load("nano")
    prompts = haystacks_of(model, 64, 1, 1, 3)
    every = [(layer, head) for layer in range(10) for head in range(3)]
    assert SMALL.found(model, prompts, ()) > 0.5
    assert SMALL.found(model, prompts, every) == 0
    answers = [RetrievalHeads(since=since, mask=mask).answer(model, prompts[0], MaskedHeads(frozenset(every[:6]), mask))
               for since in ("answer", "prompt") for mask in ("uniform", "zero")]  # type: ignore[arg-type]
    needle = needle_of(model, prompts[0])
    copied = [bool(answer.strip()) and answer.strip() in needle for answer in answers]
    assert copied == [True, False, True, False]  # nano needs something of its first two layers, whatever it is
    assert answers[1] != answers[3]


def test_table_and_plot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(studies.retrieval_heads, "COUNTS", (1, 3))
    table = SMALL.table(Setting(RunConfig(limit=2), tmp_path, said))
    assert list(table["masked"]) == [0, 1, 2, 3]
    assert table["score"].dropna().is_monotonic_decreasing
    assert list(table["found"].isna()) == [False, False, True, False]
    assert list(table["others"].isna()) == [True, False, True, False]
    assert ((table["lowest"] <= table["others"]) & (table["others"] <= table["highest"]))[[1, 3]].all()
    assert table["active"].dropna().between(0, 1).all()
    assert table["found"][0] > 0
    axes = Figure().subplots()
    SMALL.plot(table, axes)
    assert list(axes.lines[0].get_ydata()) == list(table["found"].dropna())


def test_texts_longer_than_the_context_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="longest must be at most 8042 for nano, not 9000"):
        RetrievalHeads(longest=9000).table(Setting(RunConfig(), tmp_path, said))
