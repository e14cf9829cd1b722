"""Conditional beam search: exact modes on the chain, its identities, its judges, and their training."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.decoding.search import Hypothesis
from harness.engine.batching import run_batched
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.strategy import Request
from harness.scoring.variety import rep_n
from strategies.beam import Beam
from strategies.conditional_beam import ConditionalBeam
from strategies.greedy import Greedy
from strategies.parts.conditional import Attribute, Rule, Trained
from strategies.tools.conditional_train import Examples, fitted, main, quality, split
from tests.chain import all_sequences, chain_request
from tests.decode import decode, engine
from tests.markov import letters, markov
from tests.models import EOS, prompts, tiny_model
from tests.scale import scaled


class Exact:
    """P(A | prefix) of the chain by enumeration, for any attribute of the finished sequence."""

    def __init__(self, has: Callable[[str], bool], reads: bool) -> None:
        self.has, self.reads = has, reads

    def log_p(self, hypotheses: Sequence[Hypothesis], hidden: Tensor) -> list[float]:
        if self.reads:
            assert len(hidden) == len(hypotheses)
            assert hidden.argmax(-1).tolist() == [h.tokens[-1] for h in hypotheses]  # the row after its own token
        return [self.chance(letters(h.tokens)) for h in hypotheses]

    def chance(self, prefix: str) -> float:
        mass = [(math.exp(log_p), self.has(text)) for text, log_p in all_sequences().items() if text.startswith(prefix)]
        good = sum(p for p, has in mass if has)
        return math.log(min(1.0, good / sum(p for p, _ in mass))) if good else -math.inf

    def final(self, text: Hypothesis, length: int) -> float:
        return 0.0 if self.has(letters(text.tokens)) else -math.inf


ATTRIBUTES: dict[str, Callable[[str], bool]] = {
    "not empty": lambda text: text != "$", "has a b": lambda text: "b" in text,
    "one long": lambda text: len(text) == 1, "two long": lambda text: len(text) == 2,
    "three long": lambda text: len(text) == 3, "four long": lambda text: len(text) == 4,
    "ends in b": lambda text: text.endswith("b")}


@pytest.mark.parametrize("reads", [False, True])
@pytest.mark.parametrize(("name", "mode"), [("not empty", "a$"), ("has a b", "b$"), ("one long", "$"),
                                            ("two long", "a$"), ("three long", "ab$"), ("four long", "abab"),
                                            ("ends in b", "abab")])
def test_the_conditional_mode_of_the_chain(name: str, mode: str, reads: bool) -> None:
    has = ATTRIBUTES[name]
    assert max((text for text in all_sequences() if has(text)), key=lambda text: all_sequences()[text]) == mode
    judge = Exact(has, reads)
    got = ConditionalBeam(width=31, length_penalty=0.0).search(Session(markov()), chain_request(), judge)
    good = [h for h in got if h.score > -math.inf]
    assert letters(got[0].tokens) == mode
    assert sorted(letters(h.tokens) for h in good) == sorted(text for text in all_sequences() if has(text))
    for h in good:  # replaced at every step, so that only the last chance, which is one, is in it
        assert h.score == h.log_p == pytest.approx(all_sequences()[letters(h.tokens)], abs=1e-5)


@pytest.mark.parametrize("reads", [False, True])
def test_a_small_beam_finds_what_a_plain_one_misses(reads: bool) -> None:
    """Two beams: plain search returns the empty sequence, exact probabilities lead to an end in b."""
    judge = Exact(ATTRIBUTES["ends in b"], reads)
    (first, _) = ConditionalBeam(width=2, length_penalty=0.0).search(Session(markov()), chain_request(), judge)
    assert letters(first.tokens) == "abab"
    plain = Beam(width=3, length_penalty=0.0, finished="kept").search(Session(markov()), chain_request())
    assert letters(plain[0].tokens) == "$"


def test_a_chance_that_added_up_would_lose() -> None:
    """The score of a live prefix is its log p plus one log P(A), after any number of steps."""
    seen = list[tuple[float, float, float]]()

    class Half(Exact):
        def log_p(self, hypotheses: Sequence[Hypothesis], hidden: Tensor) -> list[float]:
            seen.extend((h.score, h.log_p, len(h.tokens)) for h in hypotheses)
            return [math.log(0.5)] * len(hypotheses)
    for reads in (False, True):
        got = ConditionalBeam(width=4, length_penalty=0.0).search(Session(markov()), chain_request(),
                                                                Half(lambda text: True, reads))
        assert all(h.score == h.log_p for h in got)
    assert all(score == pytest.approx(log_p, abs=1e-5) for score, log_p, _ in seen)
    assert max(length for *_, length in seen) == 3


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "opt"])
def test_identities(arch: str) -> None:
    target = engine(tiny_model(arch))
    sure = Trained(Attribute(most=1.0), torch.zeros(64, dtype=torch.float64), 50.0)
    for prompt in prompts(2, 97, 11):
        request = Request(tuple(prompt), 12, PhiloxStream(0), frozenset({EOS}))
        for penalty in (0.0, 1.0):
            plain = Beam(width=4, length_penalty=penalty, finished="kept").search(Session(target), request)
            none = ConditionalBeam(classifier="none", length_penalty=penalty)
            assert [h.tokens for h in none.search(Session(target), request)] == [h.tokens for h in plain]
            read = none.search(Session(target), request, sure)
            assert [h.tokens for h in read] == [h.tokens for h in plain]
        greedy = decode(Greedy(), target, prompt, new=12)
        assert decode(ConditionalBeam(width=1, classifier="none"), target, prompt, new=12) == greedy


def test_repeats_are_counted_as_they_come() -> None:
    target = engine(tiny_model("llama", vocab=8, sharpness=0.7))
    request = Request((3, 4, 5), 14, PhiloxStream(0), frozenset({EOS}))
    found = ConditionalBeam(width=8, ngram=2, repeated=1.0).search(Session(target), request)
    counts = set()
    for h in found:
        body = h.tokens[:-1] if h.tokens[-1] == EOS else h.tokens
        assert h.state == round((rep_n([body], 2) or 0) * (len(body) - 1))
        counts.add(h.state)
    assert max(counts) > 0


def test_the_rule_keeps_repetition_away() -> None:
    """Beams of tiny models repeat themselves; with the rule the first result does not, if any does not."""
    attribute, kept = Attribute(3, 0.2), {"none": 0, "rule": 0}
    for arch in ("qwen2", "gpt2"):
        target = engine(tiny_model(arch, vocab=16))
        for prompt in prompts(4, 16, 3):
            for classifier in kept:
                strategy = ConditionalBeam(classifier=classifier, ngram=3)
                text = decode(strategy, target, prompt, new=24)
                kept[classifier] += attribute.holds(text[:-1] if text[-1] == EOS else text)
    assert kept["rule"] == 8 > kept["none"]


def test_the_attribute() -> None:
    assert not Attribute().holds([])
    assert Attribute().holds([5])
    assert Attribute(2, 0.5).holds([1, 2, 1, 2, 1])                 # 1 − 2/4
    assert not Attribute(2, 0.49).holds([1, 2, 1, 2, 1])
    rule = Rule(Attribute(2, 0.4), 0.1)
    looping, fine = Hypothesis((1, 2, 1, 2, 1), state=2), Hypothesis((1, 2, 3, 4), state=0)
    assert rule.log_p([looping, fine], torch.empty(0)) == [math.log(0.1), 0.0]
    assert rule.final(looping, 5) == -math.inf
    assert rule.final(Hypothesis((EOS,), state=0), 0) == -math.inf


def examples(n: int = 400) -> Examples:
    """Return states whose first component decides the label, with some noise."""
    rng = np.random.default_rng(0)
    hidden = rng.standard_normal((n, 64)).astype(np.float32) * 3 + 1
    good = hidden[:, 0] + rng.standard_normal(n) > 1
    return Examples(hidden, good, np.arange(n) // 8)


def test_training_finds_what_decides_and_keeps_prompts_apart(tmp_path: Path) -> None:
    seen, held = split(examples())
    assert not set(seen.prompt) & set(held.prompt)
    trained = fitted(seen, Attribute(3, 0.1))
    assert int(trained.weight.abs().argmax()) == 0
    assert float(quality(trained, held)[1].split()[-1]) > 0.85
    trained.save(tmp_path / "c.npz")
    again = Trained.load(str(tmp_path / "c.npz"))
    assert again.attribute == Attribute(3, 0.1)
    assert again.log_p([], torch.ones(2, 64)) == pytest.approx(trained.log_p([], torch.ones(2, 64)), abs=1e-4)
    with pytest.raises(UserError, match="All texts are good"):
        fitted(Examples(seen.hidden, np.ones(len(seen.good), bool), seen.prompt), Attribute())


def test_what_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'nothing\.npz' is not a classifier"):
        _ = ConditionalBeam(classifier="nothing.npz").judge
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(UserError, match="is not a classifier"):
        _ = ConditionalBeam(classifier=str(tmp_path / "text.npz")).judge
    with pytest.raises(UserError, match="hidden states of size 192, not 64"):
        decode(ConditionalBeam(classifier="nano"), engine(tiny_model("llama")), [5, 6, 7], new=5)
    assert main(["--model", "nowhere", "--task", "nano_story", "--limit", "1", "--out", str(tmp_path / "x.npz")]) == 2
    with pytest.raises(SystemExit, match="2"):
        main(["--temperatures", "warm", "--out", str(tmp_path / "x.npz")])


def test_the_file_that_is_shipped() -> None:
    judge = ConditionalBeam(classifier="nano").judge
    assert isinstance(judge, Trained)
    assert len(judge.weight) == 192
    assert judge.attribute == Attribute()


@pytest.mark.parametrize("classifier", ["rule", "file"])
@torch.inference_mode()
@pytest.mark.slow  # tests/law runs every strategy so at its defaults
def test_texts_side_by_side_get_the_tokens_they_have_alone(classifier: str, tmp_path: Path) -> None:
    fitted(examples(), Attribute()).save(tmp_path / "c.npz")
    target = engine(tiny_model("llama"))
    name = str(tmp_path / "c.npz") if classifier == "file" else classifier
    strategy = ConditionalBeam(width=3, classifier=name, candidates=4)
    jobs = [partial(decode, strategy, target, prompt, new=8) for prompt in prompts(scaled(5, 7), 97, 5)]
    alone = [job() for job in jobs]
    assert run_batched([target], jobs, 3) == alone
    assert run_batched([target], jobs, 16) == alone
