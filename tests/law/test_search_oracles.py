"""Searches on small models against all sequences, scored by the definitions with full forwards."""

import math
from functools import cache, partial
from itertools import pairwise

import pytest
import torch

from harness.decoding.search import Hypothesis, LengthRule, Search, divisor
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.plugins.strategy import Request
from strategies.beam import Beam
from strategies.conditional_beam import ConditionalBeam
from strategies.contrastive_decoding import ContrastiveDecoding
from strategies.diverse_beam import DiverseBeam
from strategies.parts.conditional import Attribute
from strategies.stochastic_beam import StochasticBeam
from strategies.uid_beam import UidBeam
from tests.decode import decode, engine
from tests.models import tiny_model

VOCAB, LENGTH, END, ALL = 4, 4, 2, 128  # 121 texts
near = partial(pytest.approx, abs=1e-4, rel=1e-5)
ARCHS = ("llama", "gpt2")
PLACES = ((3, 1), (0, 1, 3))
Text = tuple[int, ...]


@cache
def model(arch: str, seed: int = 0) -> Engine:
    return engine(tiny_model(arch, vocab=VOCAB, seed=seed, sharpness=0.8, layers=2))


@cache
def laws(arch: str, where: Text, seed: int = 0, length: int = LENGTH) -> dict[Text, torch.Tensor]:
    """Return logits (V,) after every prefix of fewer than `length` tokens, each by one full forward."""
    found, open_ = dict[Text, torch.Tensor](), [()]
    for _ in range(length):
        with torch.inference_mode():
            said = model(arch, seed).model(torch.tensor([[*where, *text] for text in open_])).logits[:, -1].double()
        found.update(zip(open_, said, strict=True))
        open_ = [(*text, token) for text in open_ for token in range(VOCAB) if token != END]  # type: ignore[misc]
    return found


@cache
def texts(arch: str, where: Text, length: int = LENGTH) -> dict[Text, list[float]]:
    """Return the surprisals of every sequence that ends or has `length` tokens."""
    found = dict[Text, list[float]]()
    for prefix, logits in laws(arch, where, 0, length).items():
        for token, log_p in enumerate(logits.log_softmax(-1).tolist()):
            if token == END or len(prefix) == length - 1:
                known = [-float(laws(arch, where)[prefix[:i]].log_softmax(-1)[t]) for i, t in enumerate(prefix)]
                found[*prefix, token] = [*known, -log_p]
    return found


@cache
def lowest(arch: str, where: Text) -> dict[Text, list[float]]:
    """Return the surprisal of the likeliest token at every place of every text."""
    least = {text: -float(logits.log_softmax(-1).max()) for text, logits in laws(arch, where).items()}
    return {text: [least[text[:i]] for i in range(len(text))] for text in texts(arch, where)}


@cache
def likeliest(arch: str, where: Text, sample: int) -> list[int]:
    return decode(Beam(ALL, 0.0), model(arch), list(where), new=LENGTH, eos=END, sample=sample)


def searched(strategy: Search, arch: str, where: Text, length: int = LENGTH) -> list[Hypothesis]:
    session = Session(model(arch))
    found = list(strategy.search(session, Request(where, length, PhiloxStream(0), frozenset({END}))))
    session.close()
    return found


def test_there_are_so_many_texts() -> None:
    assert len(texts("llama", PLACES[0])) == 121
    assert sum(math.exp(-sum(u)) for u in texts("llama", PLACES[0]).values()) == pytest.approx(1)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("rule", "penalty", "finished"), [
    ("power", 0.0, "pooled"), ("power", 1.0, "kept"), ("gnmt", 0.6, "pooled"), ("full", 1.0, "pooled"),
    ("power", -1.0, "kept"), ("sockeye", 1.0, "pooled")])
def test_beam(arch: str, rule: LengthRule, penalty: float, finished: str) -> None:
    offset = 2.0 if rule == "sockeye" else 0.0
    strategy = Beam(ALL, penalty, "never" if finished == "pooled" else "false", rule, offset, finished)
    for where in PLACES:
        by = divisor(rule, penalty, offset, prompt=len(where))
        exact = {text: -sum(u) / by(len(text)) for text, u in texts(arch, where).items()}
        found = searched(strategy, arch, where)
        assert [h.ranked(by) for h in found] == near(sorted(exact.values(), reverse=True))
        assert [exact[h.tokens] for h in found] == near([h.ranked(by) for h in found])


def regulariser(kind: str, u: list[float], least: list[float]) -> float:
    mean = sum(u) / len(u)
    return {"greedy": sum((a - b) ** 2 for a, b in zip(u, least, strict=True)), "max": max(u),
            "variance": sum((a - mean) ** 2 for a in u) / len(u), "squared": sum(a * a for a in u),
            "local": sum((a - b) ** 2 for a, b in pairwise(u)) / len(u)}[kind]


@pytest.mark.parametrize("kind", ["greedy", "variance", "local", "max", "squared"])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_even_information(kind: str, penalty: float) -> None:
    changed = 0
    for arch in ARCHS:
        for where in PLACES:
            plain = max(texts(arch, where), key=lambda text: -sum(texts(arch, where)[text]) / len(text)**penalty)
            for strength in (0.1, 1.0, 10.0):
                exact = {text: (-sum(u) - strength * regulariser(kind, u, lowest(arch, where)[text]))
                         / len(text)**penalty for text, u in texts(arch, where).items()}
                found = searched(UidBeam(ALL, strength, kind, penalty), arch, where)
                assert [h.score / len(h.tokens)**penalty for h in found] == near(
                    sorted(exact.values(), reverse=True))
                assert exact[found[0].tokens] == near(max(exact.values()))
                changed += found[0].tokens != plain
    assert changed or penalty or kind == "local"


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("ngram", [1, 2])
def test_conditional_modes(arch: str, ngram: int) -> None:
    """Results without repeats, in order, come before those with repeats; the widest beam covers all 40 sequences."""
    attribute = Attribute(ngram, 0.0)
    for where in PLACES:
        good = {text: -sum(u) for text, u in texts(arch, where, 3).items()
                if attribute.holds(text[:-1] if text[-1] == END else text)}
        strategy = ConditionalBeam(width=64, candidates=VOCAB, length_penalty=0.0, ngram=ngram, repeated=0.0)
        found = [h for h in searched(strategy, arch, where, 3) if h.score > -math.inf]
        assert [h.score for h in found] == near(sorted(good.values(), reverse=True))
        assert [good[h.tokens] for h in found] == near([h.score for h in found])
        assert 0 < len(good) < 40


@pytest.mark.parametrize("variant", ["paper", "official", "cd2"])
@pytest.mark.parametrize("context", ["all", "last"])
def test_contrastive_beams(variant: str, context: str) -> None:
    changed = 0
    for arch in ARCHS:
        method = ContrastiveDecoding(width=ALL, alpha=0.3, beta=0.5, variant=variant, context=context)
        for where in PLACES:
            small = laws(arch, where if context == "all" else where[-1:], 1)
            exact = {text: sum(float(method.scores(laws(arch, where)[text[:i]], small[text[:i]])[token])
                               for i, token in enumerate(text)) for text in texts(arch, where)}
            ranked = sorted((score for score in exact.values() if score > -math.inf), reverse=True)
            for sample in range(min(3, len(ranked))):
                found = decode(method, model(arch), list(where), draft=model(arch, 1), new=LENGTH, eos=END,
                               sample=sample)
                assert exact[tuple(found)] == near(ranked[sample])
                changed += found != likeliest(arch, where, sample)
    assert changed


@pytest.mark.parametrize("arch", ARCHS)
def test_all_texts_are_drawn_once(arch: str) -> None:
    for where in PLACES:
        found = searched(StochasticBeam(width=ALL), arch, where)
        assert {h.tokens: h.log_p for h in found} == near(
            {text: -sum(u) for text, u in texts(arch, where).items()})
        assert len(found) == 121


@pytest.mark.parametrize("diversity", [0.3, 2.0])
@pytest.mark.parametrize("groups", [2, 4])
def test_diverse_groups_by_hand(groups: int, diversity: float) -> None:
    """Groups of one beam each: the likeliest token less what the groups before, if they are at work, took here."""
    for arch in ARCHS:
        for where in PLACES:
            live, done = [((), 0.0)] * groups, [False] * groups
            for _ in range(LENGTH):
                said = list[int]()
                for i in range(groups):
                    if done[i]:
                        continue
                    scores = laws(arch, where)[live[i][0]].log_softmax(-1).tolist()
                    bent = [score - diversity * said.count(token) for token, score in enumerate(scores)]
                    token = max(range(VOCAB), key=bent.__getitem__)
                    said.append(token)
                    live[i], done[i] = ((*live[i][0], token), live[i][1] + bent[token]), token == END
            session = Session(model(arch))
            request = Request(where, LENGTH, PhiloxStream(0), frozenset({END}))
            found = DiverseBeam(groups, groups, diversity, 0.0, distance="hamming").grouped(session, request)
            session.close()
            assert [(g.pool[0].tokens, near(g.pool[0].score)) for g in found] == [
                (tokens, score) for tokens, score in live]
