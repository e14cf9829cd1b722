"""The study of steering: its rows, what its vectors are, and that its files run with `clamp`."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from harness.models.loading import Model, load
from harness.nano.corpus import KINDS
from harness.plugins.study import Setting
from harness.stats.naive_bayes import NaiveBayes
from harness.store.config import RunConfig
from strategies.clamp import Clamp
from strategies.drafters.texts import corpus
from strategies.greedy import Greedy
from strategies.parts.codes import Codebook
from strategies.parts.steering import Vector, read
from studies import steering
from studies.steering import Steering

SMALL = Steering(layers=1, codes=12, texts=1, prompts=1, new=4)


def shipped(count: int) -> dict[str, list[str]]:
    return {kind: corpus([kind], count) for kind in KINDS}


@pytest.fixture(autouse=True)
def texts_of_the_split_that_is_shipped(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Those of the dev split would have to be drawn first, for seconds."""
    monkeypatch.setattr(steering, "embedded", shipped)
    monkeypatch.setattr(steering, "LEARNT", 20)
    yield
    read.cache_clear()


@cache
def nano() -> Model:
    return load("nano")


def setting(folder: Path) -> Setting:
    return Setting(RunConfig(model="nano", threads=1), folder, lambda text: None)


@cache
def vectors(folder: Path) -> dict[str, Clamp]:
    return SMALL.vectors(nano(), shipped(1), 3, setting(folder))


def test_the_vectors_have_the_mean_norm_of_the_states_and_the_code_is_of_the_kind(tmp_path: Path) -> None:
    found, corpus = vectors(tmp_path), shipped(1)
    norms = []
    for kind in KINDS:
        for text in corpus[kind]:
            with torch.inference_mode():
                out = nano().engine.model(torch.tensor([nano().tokenizer(text).input_ids]), output_hidden_states=True)
            norms.append(out.hidden_states[3][0, :-1].norm(dim=-1))
    mean, lengths = float(torch.cat(norms).mean()), []
    for name in ("kind", "other", "random"):
        (edit,) = read(Path(found[name].file))
        assert isinstance(edit, Vector)
        assert edit.site == "hidden:3"
        lengths.append(float(torch.tensor(edit.vector).norm()))
    assert lengths == pytest.approx([mean] * 3, rel=1e-4)
    book = read(tmp_path / "codes-3.json")
    assert isinstance(book, Codebook)
    assert book.site == "hidden:3"
    assert (found["code"].mode, found["code"].code) == ("code", book.best("story"))
    assert SMALL.other(book) in [book.best(kind) for kind in KINDS if kind != "story"]


def test_without_an_alpha_every_vector_writes_what_the_model_writes(tmp_path: Path) -> None:
    prompts = [nano().tokenizer(text).input_ids for text in ("Q: What is 2 + 3?\nA:", "Text: A dog sat.\nSummary:")]
    plain = list(SMALL.answers(nano(), Greedy(), prompts))
    for method in vectors(tmp_path).values():
        assert list(SMALL.answers(nano(), replace(method, alpha=0.0), prompts)) == plain
        strong = list(SMALL.answers(nano(), replace(method, alpha=8.0), prompts))
        assert strong != plain


def test_the_share_and_the_likelihood_are_those_of_the_answers() -> None:
    """A classifier that knows the answers: one of two is of the kind."""
    prompts = [nano().tokenizer(text).input_ids for text in ("Q: What is 2 + 3?\nA:", "Text: A dog sat.\nSummary:")]
    answers = list(SMALL.answers(nano(), Greedy(), prompts))
    kinds = [[[token for token in answers[0] if token not in nano().eos] * 50] if kind == "story" else
             [[token for token in answers[1] if token not in nano().eos] * 50] for kind in KINDS]
    share, nll = SMALL.scored(nano(), NaiveBayes.of(kinds, nano().vocab), Greedy(), prompts)
    nats = []
    for prompt, answer in zip(prompts, answers, strict=True):
        with torch.inference_mode():
            logits = nano().engine.model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
        nats += [-float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(answer)]
    assert share == 0.5
    assert nll == pytest.approx(sum(nats) / len(nats), rel=1e-3)


def test_there_is_a_row_for_each_vector_and_alpha_and_one_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch
                                                                   ) -> None:
    monkeypatch.setattr(steering, "ALPHAS", (0.5, 2.0))
    table = SMALL.table(setting(tmp_path))
    steered = [(name, 5, alpha) for name in ("code", "kind", "other", "random") for alpha in (0.5, 2.0)]
    rows = [("none", 0, 0.0), *steered]
    assert list(table[["vector", "layer", "alpha"]].itertuples(index=False, name=None)) == rows
    assert table["share"].between(0, 1).all()
    assert (table["nll"] > 0).all()
    assert table["nll"].iloc[1:].max() > table["nll"].iloc[0], "steering costs likelihood"
    axes = Figure().add_subplot()
    SMALL.plot(table, axes)
    assert len(axes.lines) == 4
    np.testing.assert_array_equal(axes.lines[0].get_xdata(), table["nll"].iloc[:3])


def test_the_plot_has_a_line_for_each_vector_and_layer() -> None:
    rows = [("none", 0, 0.0, 0.0, 1.0), *[(name, layer, 1.0, 0.5, 2.0) for layer in (2, 5, 8)
                                          for name in ("code", "kind", "other", "random")]]
    axes = Figure().add_subplot()
    SMALL.plot(pd.DataFrame(rows, columns=["vector", "layer", "alpha", "share", "nll"]), axes)
    assert len(axes.lines) == 12
    legend = axes.get_legend()
    assert legend
    assert [text.get_text() for text in legend.get_texts()] == ["code", "story", "other", "random"]
