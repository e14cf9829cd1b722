"""Votes weighted by confidence: weights, ties, identities, and texts that end when the model becomes unsure."""

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from harness.decoding.confidence import CONFIDENCES, bottom, groups, least, lowest, self_certainty, surprise, tail
from harness.decoding.samples import elected, log_p, voted, whole
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, RequestText
from strategies.deepconf import Deepconf, Text
from strategies.greedy import Greedy
from strategies.weighted_vote import NO, YES, WeightedVote, p_true
from tests.decode import decode, engine, words
from tests.markov import START, TABLE, A, B, letters, markov
from tests.models import EOS, prompts, tiny_model
from tests.scale import scaled
from tests.strategies.test_many_samples import TEXT, Told, asked, spelt, written
from tests.strategies.test_sampling import D1

SURE, ANSWERS = (0.9, 0.7, 0.6, 0.5, 0.4), ("x", "y", "y", "z", "y")
LAST = replace(TEXT, answer=lambda text: text[-1] if text and text[0] != "b" else None)
CHAIN = {letter: float(surprise(TABLE[None, last].log(), 20)) for letter, last in (("^", START), ("a", A), ("b", B))}


def test_confidences_of_tokens() -> None:
    assert surprise(D1, 3).tolist() == pytest.approx([1.273007], abs=5e-7)
    assert surprise(D1, 20).tolist() == pytest.approx([2.689674], abs=5e-7)
    assert self_certainty(D1).tolist() == pytest.approx([0.897914], abs=5e-7)
    assert self_certainty(D1 + 50).tolist() == pytest.approx([0.897914], abs=5e-6)
    uniform = -D1.log_softmax(-1).mean() - math.log(6)
    assert self_certainty(D1).item() == pytest.approx(float(uniform))
    closed = torch.cat([D1, torch.full((1, 3), -torch.inf)], 1)  # tokens that cannot be drawn change nothing
    assert (self_certainty(closed).item(), surprise(closed, 20).item()) == pytest.approx((0.897914, 2.689674), abs=5e-7)
    assert surprise(torch.tensor([[5.0, 0, 0]]), 3) > surprise(torch.tensor([[1.0, 0, 0]]), 3), "higher when peaked"


def test_confidences_of_groups() -> None:
    values = torch.tensor([4.0, 4, 4, 1, 1, 4, 4, 4])
    assert groups(values, 3).tolist() == [4, 3, 2, 2, 3, 4]
    assert (lowest(values, 3), tail(values, 3), float(values.mean())) == (2, 4, 3.25)
    assert groups(values, 9).tolist() == [3.25]
    assert (lowest(values[:0], 3), tail(values[:0], 3)) == (0, 0)
    assert bottom(values, 3) == 2
    many = torch.arange(30.0)
    assert bottom(many, 1) == 1  # the mean of 0, 1 and 2
    lows = (3, 2.5, 2.8, 2)
    assert [least(lows, keep) for keep in (10, 90, 100, 0)] == pytest.approx([2.94, 2.15, 2, 3])


def votes(vote: str, **knobs: float) -> dict[str, float]:
    """The sums of the weights of the five texts, by answer."""
    weights, sums = WeightedVote(over=Greedy(), vote=vote, **knobs).weights(SURE), dict[str, float]()
    for answer, weight in zip(ANSWERS, weights, strict=True):
        sums[answer] = sums.get(answer, 0) + weight
    assert elected(ANSWERS, weights) == [max(sums, key=sums.__getitem__)]
    return sums


def test_weights() -> None:
    assert votes("borda", power=0.5) == pytest.approx({"x": 2.2361, "y": 4.7321, "z": 1.4142}, abs=5e-5)
    assert votes("borda", power=2.0) == {"x": 25, "y": 26, "z": 4}
    assert votes("borda", power=3.0) == {"x": 125, "y": 92, "z": 8}
    assert votes("borda", power=0.0) == votes("equal") == {"x": 1, "y": 3, "z": 1}
    assert votes("softmax", spread=1.0)["y"] == pytest.approx(0.5646, abs=5e-5)
    assert votes("softmax", spread=0.1)["x"] == pytest.approx(0.8263, abs=5e-5)
    assert votes("softmax", spread=1e6)["y"] == pytest.approx(0.6, abs=1e-5)
    assert votes("softmax", spread=1e-3)["x"] == pytest.approx(1)
    assert votes("linear") == pytest.approx({"x": 0.9, "y": 1.7, "z": 0.5})
    assert WeightedVote(over=Greedy(), power=1.0).weights((0.5, 0.7, 0.5)) == [2, 3, 1], "ties rank as they were drawn"


@torch.inference_mode()
def test_confidences_of_texts() -> None:
    session, (text,) = Session(markov()), spelt("abab")
    rows = TABLE[[START, A, B, A], 1:].log()

    def found(name: str, top: int = 20, window: int = 2) -> float:
        return CONFIDENCES[name](session, [START], list(text), top, window)
    assert found("self_certainty") == pytest.approx(float((-rows - math.log(3)).mean()), abs=1e-5)
    assert found("probability") == pytest.approx((.45 * .5 * .55 * .5) ** .25, abs=1e-5)
    assert found("mean") == pytest.approx(float(-rows.mean()), abs=1e-5)
    sure, best = -rows.mean(1), -rows.amax(1)
    assert found("lowest") == pytest.approx(float((sure[0] + sure[1]) / 2), abs=1e-5)
    assert found("tail") == pytest.approx(float((sure[2] + sure[3]) / 2), abs=1e-5)
    assert found("mean", top=1) == pytest.approx(float(best.mean()), abs=1e-5)
    assert found("bottom", window=1) == found("lowest", window=1) == pytest.approx(float(sure.min()), abs=1e-5)
    said = {YES: [A], NO: [B]}
    request = asked(text=RequestText("^", list, lambda words: said.get(words, []), str, str))
    assert p_true(session, request, list(spelt("ab$")[0])) == pytest.approx(0.55 / 0.6, abs=1e-5)
    assert p_true(session, request, list(spelt("ba")[0])) == pytest.approx(0.1 / 0.6, abs=1e-5)


def elects(*texts: str, **knobs: object) -> str:
    strategy = WeightedVote(over=Told(texts=spelt(*texts)), n=len(texts), **knobs)  # type: ignore[arg-type]
    return written(strategy, asked(text=LAST))


@torch.inference_mode()
def test_the_elected_answer_in_its_surest_text() -> None:
    """Answers of two texts each; the probabilities a letter are .3, .450 (abab), .424 (aba$) and .183 (abb$)."""
    sure: dict[str, object] = {"confidence": "probability"}
    assert elects("ab$", "aba$", "abab", vote="linear", **sure) == "abab", "b has the surest text and most weight"
    assert elects("aa$", "aba$", "abab", vote="equal", **sure) == "aa$", "most votes, and the first text"
    assert elects("aa$", "aba$", "abab", vote="linear", **sure) == "aba$", "most weight, and the surest text"
    assert elects("aa$", "aba$", "abab", vote="borda", power=2.0, **sure) == "abab"
    assert elects("aa$", "aba$", "abab", vote="equal", keep=30.0, **sure) == "abab"
    assert elects("bab$", "bb$", "aa$", vote="borda", power=9.0, **sure) == "aa$", "the others have no answer"
    assert elects("bb$", "bab$", vote="linear", **sure) == "bab$", "no text has an answer"


@torch.inference_mode()
def test_texts_without_an_answer_keep_their_rank() -> None:
    """The surest text has no answer; without it the ranks were 2 and 1, and one text of `a` would lose."""
    texts, sure = ("baba", "aba$", "aa$", "abb", "abb"), {"confidence": "probability", "vote": "borda", "power": 1.2}
    assert elects(*texts, **sure) == "aba$"
    session, request = Session(markov()), asked(text=LAST)
    answers = [list(text) for text in spelt(*texts)]
    assert voted(session, request, answers, [None, "a", "a", "b", "b"], [5, 4, 3, 2, 1]) == 1
    assert voted(session, request, answers, [None, "a", "a", "b", "b"], [5, 3, 4, 2, 6]) == 4


@torch.inference_mode()
def test_ties_are_broken_by_probability_and_order() -> None:
    for vote in ("equal", "borda"):
        assert elects("aa$", "ab$", vote=vote, power=0.0) == "ab$"                # p .018 against .09
        assert elects("abaa", "ab$", "aba$", "abab", vote=vote, power=0.0) == "ab$"
        assert elects("bb$", "b$", "ba$", vote=vote, power=0.0) == "b$"           # no answer: the likeliest
        assert elects("ab$", "ab$", vote=vote, power=0.0) == "ab$"


def same(one: str, other: str, new: int = 20) -> None:
    """Compare the answers of two strategies on a tiny model, over several prompts."""
    target, found = engine(tiny_model("llama")), set[tuple[int, ...]]()
    for prompt in prompts(scaled(3, 8), 97, 12):
        text = decode(STRATEGIES.build(one), target, prompt, new=new)
        assert text == decode(STRATEGIES.build(other), target, prompt, new=new)
        found.add(tuple(text))
    assert len(found) > 1


@torch.inference_mode()
@pytest.mark.parametrize(("one", "other"), [
    ("weighted_vote:n=6,vote=equal", "self_consistency:n=6"),
    ("weighted_vote:n=6,power=0", "self_consistency:n=6"),
    ("temperature+weighted_vote:n=5,power=100,confidence=probability", "temperature+best_of_n:n=5"),
    ("top_p:p=0.9+weighted_vote:n=1", "top_p:p=0.9"), ("top_p:p=0.9+deepconf:n=1", "top_p:p=0.9"),
    ("deepconf:n=6,warmup=6,keep=100,vote=equal", "top_p:p=0.95,temperature=0.6+self_consistency:n=6"),
    ("temperature+deepconf:n=7,warmup=9,keep=50,window=4",
     "temperature+weighted_vote:n=7,confidence=lowest,vote=linear,keep=50,window=4"),
    ("beam:width=4+deepconf:n=4,warmup=2,window=4",
     "beam:width=4+weighted_vote:n=4,confidence=lowest,vote=linear,keep=90,window=4"),
])
def test_identities(one: str, other: str) -> None:
    same(one, other)


OVERS = ("temperature:temperature=1.3", "top_p:p=0.9", "temperature+repetition_penalty:penalty=1.3",
         "speculative:temperature=1.2,gamma=3", "temperature:temperature=1.3+best_of_n:n=2")


def texts(strategy: Deepconf, prompt: Sequence[int], new: int) -> tuple[list[Text], float, int]:
    """The texts of a strategy on a tiny model with a draft, its threshold, and the positions that it computed."""
    target, small = engine(tiny_model("llama")), engine(tiny_model("llama", seed=1))
    session = Session(target, Session(small))
    request = Request(tuple(prompt), new, PhiloxStream(3), frozenset({EOS}), text=words(prompt, 97))
    try:
        return *strategy.texts(session, request), session.work.positions
    finally:
        session.close()


@torch.inference_mode()
@pytest.mark.parametrize("over", OVERS)
def test_a_text_is_stopped_at_its_first_unsure_group(over: str) -> None:
    """Each is a prefix of the text that would be written, up to the first group below the threshold."""
    prompt, new, window, stopped = prompts(1, 97, 3)[0], 24, 4, 0
    spec = f"{over}+deepconf:n=10,keep=50,window={window},top=5"
    strategy = STRATEGIES.build(f"{spec},warmup=4")
    assert isinstance(strategy, Deepconf)
    found, low, positions = texts(strategy, prompt, new)
    full, _, more = texts(replace(strategy, warmup=10), prompt, new)
    session = Session(engine(tiny_model("llama")))
    for number, (text, unstopped) in enumerate(zip(found, full, strict=True)):
        tokens = unstopped.tokens
        rows = [session_row(session, [*prompt, *tokens[:i]]) for i in range(len(tokens))]
        means = [sum(rows[i:i + window]) / window for i in range(len(rows) - window + 1)]
        first = next((i for i, mean in enumerate(means) if mean < low), None)
        if number < 4 or first is None:
            assert text.tokens == tokens
            assert text.confidence == pytest.approx(min(means or [sum(rows) / len(rows)]), abs=1e-4)
        else:
            assert text == (tokens[:first + window], None)
            stopped += 1
    assert 0 < stopped < 6
    assert positions < more


def session_row(session: Session, sequence: list[int]) -> float:
    session.follow(sequence)
    return float(surprise(session.read().logits, 5))


@torch.inference_mode()
def test_unsure_texts_end_and_do_not_vote() -> None:
    """On the chain a group after `^b` has a mean of 1.328, after `^a` 1.228, after `aa` 1.304, and all others more."""
    assert [CHAIN[letter] for letter in "^ab"] == pytest.approx([1.1526, 1.3040, 1.5033], abs=5e-5)
    strategy = Deepconf(over=STRATEGIES.build("temperature"), n=60, warmup=24, keep=20, window=2)
    session = Session(markov())
    for number in range(6):
        request = asked(stream=PhiloxStream("deepconf", number), text=replace(TEXT, answer=lambda text: text[0]))
        found, low = strategy.texts(session, request)
        assert low == pytest.approx((CHAIN["^"] + CHAIN["b"]) / 2, rel=2e-4)
        first = [letters(text.tokens) for text in found[:24]]
        assert sum(text[0] == "a" for text in first) > 2
        for text in found[24:]:
            stopped = text.tokens[0] == A or text.tokens[:3] == [B, A, A]
            assert (text.confidence is None) == stopped
            assert not stopped or len(text.tokens) == (2 if text.tokens[0] == A else 4)
        assert letters(whole(session, request, strategy))[0] == "b", "the majority begins with a"


@torch.inference_mode()
def test_a_vote_reads_each_different_text_once() -> None:
    session = Session(markov())
    whole(session, asked(text=LAST), WeightedVote(over=Told(texts=spelt("ab$", "aa$", "ab$", "ab$")), n=4))
    assert session.work.forwards == 2
    assert len(log_p(session, [START], [])) == 0
