"""Several answers to one prompt: how they are sampled and scored, and which one each strategy returns."""

import json
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from scipy.stats import chi2_contingency

from harness.decoding import samples
from harness.decoding.samples import drawn, elected, log_p, mean, whole
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import Likeliest, PhiloxStream
from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, RequestText, Strategy
from strategies.beam import Beam
from strategies.best_of_n import BestOfN
from strategies.greedy import Greedy
from strategies.mbr import Mbr, best, expected
from strategies.parts.alike import UTILITIES, f1
from strategies.self_consistency import SelfConsistency
from strategies.temperature import Temperature
from tests.decode import decode, engine
from tests.markov import END, START, TABLE, A, B, letters, markov
from tests.models import EOS, prompts, tiny_model
from tests.scale import scaled

LENGTH = 4
TEXT = RequestText("^", lambda text: [START], lambda text: [],
                   lambda tokens: " ".join(letters(list(tokens))).rstrip("$ "),
             lambda text: text or None)
ALL = Beam(width=31, length_penalty=0)  # every output of the chain, the likeliest first


def asked(**more: object) -> Request:
    """Return a request to the chain of specs/quality 0.2."""
    return replace(Request((START,), LENGTH, PhiloxStream("M1"), frozenset({END}), text=TEXT), **more)


def outputs() -> dict[tuple[int, ...], float]:
    """Return the probability of every output of the chain."""
    live, done = {(): 1.0}, dict[tuple[int, ...], float]()
    while live:
        grown = {(*text, token): p * float(TABLE[text[-1] if text else START, token])
                 for text, p in live.items() for token in (A, B, END)}
        done |= {text: p for text, p in grown.items() if text[-1] == END or len(text) == LENGTH}
        live = {text: p for text, p in grown.items() if text not in done}
    return done


@dataclass(frozen=True)
class Told(Strategy):
    """Writes sample i of its script."""

    texts: tuple[tuple[int, ...], ...] = ()

    paper = family = "test"
    guarantee = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[Sequence[int]]:
        yield self.texts[request.sample]


def written(strategy: Strategy, request: Request | None = None) -> str:
    """Return the output of a strategy on the chain."""
    return letters(whole(Session(markov()), request or asked(), strategy))


def spelt(*words: str) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple({"a": A, "b": B, "$": END}[letter] for letter in word) for word in words)


def test_answers_depend_on_their_number_alone() -> None:
    session, request = Session(markov()), asked()
    many = drawn(session, asked(), Temperature(), 12)
    assert len({*map(tuple, many)}) > 4
    request.stream.uniform(5)  # what was drawn before is no matter to any but answer 0
    assert drawn(session, request, Temperature(), 5)[1:] == many[1:5]
    assert many[0] == whole(session, asked(), Temperature())
    assert drawn(session, asked(stream=PhiloxStream("other")), Temperature(), 12) != many


def test_branches_of_a_stream() -> None:
    stream = PhiloxStream(1, "x")
    first = [stream.branch(i).uniform(3).tolist() for i in range(50)]
    assert len({tuple(draws) for draws in first}) == 50
    assert stream.branch(7).uniform(3).tolist() == first[7] != PhiloxStream(1, "y").branch(7).uniform(3).tolist()
    assert stream.branch(1).branch(2).uniform(1).tolist() != stream.branch(2).branch(1).uniform(1).tolist()
    assert Likeliest().branch(3).choose(torch.tensor([0.1, 0.9])) == 1


def test_answers_follow_the_distribution_and_are_independent() -> None:
    session, pairs, law, draws = Session(markov()), Counter[tuple[int, int]](), outputs(), scaled(300, 1200)
    seen: list[Counter[tuple[int, ...]]] = [Counter(), Counter(), Counter()]
    for number in range(draws):
        answers = drawn(session, asked(stream=PhiloxStream("law", number)), Temperature(), 3)
        pairs[answers[0][0], answers[1][0]] += 1
        for counts, answer in zip(seen, answers, strict=True):
            counts[tuple(answer)] += 1
    for counts in seen:
        distance = sum(abs(counts[text] / draws - p) for text, p in law.items()) / 2
        assert distance < math.sqrt(len(law) / draws)
    table = [[pairs[i, j] for j in (A, B, END)] for i in (A, B, END)]
    assert chi2_contingency(table).pvalue > 1e-3


def test_the_prompt_is_read_once() -> None:
    target = engine(tiny_model("llama"))
    session, prompt = Session(target), prompts(1)[0] * 8
    answers = drawn(session, Request(tuple(prompt), 20, PhiloxStream(0), frozenset({EOS})), Temperature(), 6)
    assert session.work.positions <= len(prompt) + sum(map(len, answers))


@pytest.mark.parametrize("chunk", [1, 3, 256])
def test_log_p_is_that_of_the_model(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "CHUNK", chunk)
    session = Session(markov())
    for text, p in outputs().items():
        assert float(log_p(session, [START], text).sum()) == pytest.approx(math.log(p), abs=1e-5)
    assert (len(log_p(session, [START], [])), mean(log_p(session, [START], []))) == (0, 0.0)


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "opt"])
@torch.inference_mode()
def test_log_p_is_one_forward(arch: str) -> None:
    target = engine(tiny_model(arch))
    prompt, tokens = prompts(2, seed=4)
    law = target.model(torch.tensor([prompt + tokens])).logits[0].float().log_softmax(-1)
    want = [float(law[len(prompt) - 1 + i, token]) for i, token in enumerate(tokens)]
    session = Session(target)
    assert log_p(session, prompt, tokens).tolist() == pytest.approx(want, abs=1e-4)
    assert (session.work.forwards, session.work.positions) == (1, len(prompt) + len(tokens) - 1)


def test_answers_end_where_the_runner_cuts() -> None:
    told, session = Told(texts=(spelt("ab$ab")[0], spelt("bbb")[0], spelt("abbab")[0], ())), Session(markov())
    request = asked(stopped=lambda new: tuple(new[-2:]) == (B, B))
    assert [letters(answer) for answer in drawn(session, request, told, 4)] == ["ab$", "bb", "abb", ""]
    assert [letters(answer) for answer in drawn(session, asked(), told, 3)] == ["ab$", "bbb", "abba"]


def test_a_search_gives_its_hypotheses_and_no_more() -> None:
    session, law = Session(markov()), outputs()
    order = sorted(law, key=lambda text: -law[text])
    got = [tuple(answer) for answer in drawn(session, asked(), ALL, 31)]
    assert [law[text] for text in got] == pytest.approx([law[text] for text in order])
    assert [tuple(answer) for answer in drawn(session, asked(sample=2), ALL, 3)] == got[6:9]
    assert BestOfN(over=Beam(width=9), n=4).max_samples() == 2
    assert BestOfN(over=Greedy(), n=4).max_samples() is None
    for name in ("best_of_n", "self_consistency", "mbr", "trlm_rerank"):
        with pytest.raises(UserError, match=f"{name} needs n=5 answers but beam:width=4,.* gives at most 4"):
            STRATEGIES.build(f"beam:width=4+{name}:n=5")


@dataclass(frozen=True)
class Together(Strategy):
    """Gives the letters in one random order to all samples of a prompt."""

    paper = family = "test"
    guarantee = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[Sequence[int]]:
        yield [A + int(request.common.uniform(3).argsort()[request.sample]), END]


def test_what_samples_share_is_the_same_for_all_answers() -> None:
    orders = set()
    for number in range(20):
        for shared in (None, PhiloxStream("shared", number)):
            request = asked(stream=PhiloxStream("own", number), shared=shared)
            answers = drawn(Session(markov()), request, Together(), 3)
            assert {answer[0] for answer in answers} == {A, B, END}
            fresh = asked(stream=PhiloxStream("own", number), shared=shared and PhiloxStream("shared", number))
            assert answers[0] == whole(Session(markov()), fresh, Together())
            orders.add(tuple(map(tuple, answers)))
            request = asked(stream=PhiloxStream("own", number), shared=shared, sample=1)
            if shared:  # two samples of one answer each are two answers of one sample
                assert drawn(Session(markov()), request, Together(), 1) == answers[1:2]
    assert len(orders) > 4


@pytest.mark.parametrize("spec", ["best_of_n:n=1", "self_consistency:n=1", "mbr:n=1", "best_of_n:n=3,score=constant"])
def test_one_answer_or_none_better_is_the_other_strategy(spec: str) -> None:
    target = engine(tiny_model("llama"))
    for over in ("temperature", "greedy", "top_p:p=0.8", f"beam:width={scaled(4, 20)}"):
        both = STRATEGIES.build(f"{over}+{spec}")
        for prompt in prompts(scaled(1, 3), seed=2):
            assert decode(both, target, prompt) == decode(STRATEGIES.build(over), target, prompt)


@pytest.mark.parametrize("over", ["contrastive_search", "speculative:temperature=1", "momentum"])
def test_other_strategies_keep_what_they_need(over: str) -> None:
    target, small = engine(tiny_model("llama")), engine(tiny_model("llama", seed=1))
    alone, over_it = STRATEGIES.build(over), STRATEGIES.build(f"{over}+best_of_n:n=3,score=constant")
    best = STRATEGIES.build(f"{over}+best_of_n:n=2")
    for prompt in prompts(2, seed=9):
        said = decode(alone, target, prompt, draft=small)
        assert decode(over_it, target, prompt, draft=small) == said
        assert "temperature" in over or decode(best, target, prompt, draft=small) == said


def test_best_of_all_is_the_mode_or_the_likeliest_per_token() -> None:
    assert written(BestOfN(over=ALL, n=31, score="sum")) == "$"
    assert written(BestOfN(over=ALL, n=31, score="mean")) == "abab"
    assert written(BestOfN(over=Temperature(), n=scaled(100, 300), score="sum")) == "$"
    assert written(BestOfN(over=Told(texts=spelt("bb$", "a$", "ab$", "a$")), n=4, score="sum")) == "a$"


def test_the_majority_is_written_and_texts_without_an_answer_do_not_vote() -> None:
    last = replace(TEXT, answer=lambda text: text[-1] if text and text[0] != "b" else None)

    def elects(*texts: str) -> str:
        return written(SelfConsistency(over=Told(texts=spelt(*texts)), n=len(texts)), asked(text=last))
    assert elects("aa$", "ab$", "abab") == "ab$"
    assert elects("bb$", "b$", "bab$", "aa$") == "aa$"
    assert elects("aa$", "ab$") == "ab$"                    # one each: p .018 against .09
    assert elects("abaa", "ab$", "aba$", "abab") == "ab$"   # two each: .012375 + .0495 against .09 + .061875
    assert elects("aba$", "aaab", "aa$", "aaab") == "aba$"  # two each: .0495 + .018 against twice .00225
    assert elects("aba$", "aa$", "ab$", "abb$") == "ab$"    # two each: .0495 + .018 against .09 + .0045
    assert elects("ab$", "ab$") == "ab$"
    assert elects("bb$", "b$", "ba$") == "b$"               # none says anything: the likeliest
    assert elected(["x", None, "y", "y", "x", "z"]) == ["x", "y"]
    assert elected([None, None]) == []


def test_a_clear_majority_is_not_scored() -> None:
    session = Session(markov())
    whole(session, asked(), SelfConsistency(over=Told(texts=spelt("ab$", "a$", "a$")), n=3))
    assert session.work.forwards == 0


def test_mbr_on_the_whole_distribution() -> None:
    law = outputs()
    texts = [TEXT.decode(text) for text in law]
    weights = torch.tensor(list(law.values()), dtype=torch.float64)
    gain = expected(texts, weights, "f1", True)
    order = [letters(list(law)[i]) for i in gain.argsort(descending=True, stable=True)]
    assert order[:2] == ["ab$", "ba$"]
    assert gain.topk(3).values.tolist() == pytest.approx([0.59917, 0.59917, 0.55446], abs=5e-6)
    assert written(Mbr(over=ALL, n=31, utility="exact", weights="probability")) == "$"
    assert written(Mbr(over=ALL, n=31, utility="f1", weights="probability")) == "ab$"
    assert written(Mbr(over=Temperature(), n=scaled(200, 600), utility="exact")) == "$"


def test_probability_counts_a_text_once_and_count_as_often_as_it_is_drawn() -> None:
    told = Told(texts=spelt("abab", "abab", "abab", "a$"))
    assert written(Mbr(over=told, n=4, utility="exact", weights="count")) == "abab"
    assert written(Mbr(over=told, n=4, utility="exact", weights="probability")) == "a$"  # .18 against .0619
    tied = Told(texts=spelt("ab$", "ba$", "ab$"))  # the same words: the one that came first
    for weights in ("count", "probability"):
        assert written(Mbr(over=tied, n=3, utility="f1", weights=weights)) == "ab$"


def test_a_text_counts_for_itself_or_not() -> None:
    texts, one = ["x y", "x y z", "x z", "q"], torch.ones(4, dtype=torch.float64)
    alike = f1(texts)
    assert expected(texts, one, "f1", True).tolist() == pytest.approx(alike.mean(1).tolist())
    others = (alike.sum(1) - 1) / 3
    assert expected(texts, one, "f1", False).tolist() == pytest.approx(others.tolist())
    twice = ["q", "q", "x y", "x z"]  # a duplicate still counts for the other one
    assert expected(twice, one, "exact", False).tolist() == pytest.approx([1 / 3, 1 / 3, 0, 0])
    assert expected(["a"], one[:1], "exact", False).tolist() == [0.0]
    assert best(["q", "x y", "x z"], one[:3], "f1", True) == 1


def test_utilities_agree_with_mbrs() -> None:
    path = Path(__file__).parents[1] / "golden" / "mbr.json"
    for case in json.loads(path.read_text())["cases"]:
        texts, law = case["texts"], case["log_p"]
        weights = torch.ones(len(texts)) if law is None else torch.tensor(law).softmax(-1)
        gain = expected(texts, weights.double(), case["utility"], True)
        assert gain[case["order"]].tolist() == pytest.approx(case["scores"], rel=1e-5, abs=1e-4)
        assert texts[best(texts, weights.double(), case["utility"], True)] == texts[case["order"][0]]


def test_utilities_agree_with_sacrebleu() -> None:
    draw, metrics = random.Random(3), {"chrf": CHRF(), "bleu": BLEU(effective_order=True)}
    for _ in range(20):
        words = ["".join(draw.choices("abcß .,!'$-3", k=draw.randint(1, 5))) for _ in range(6)]
        texts = list(dict.fromkeys(" ".join(draw.choices(words, k=draw.randint(0, 9))) for _ in range(6)))
        for name, metric in metrics.items():
            wanted = [[metric.sentence_score(text, [other]).score for other in texts] for text in texts]
            assert UTILITIES[name](texts).tolist() == [pytest.approx(row, abs=1e-9) for row in wanted], name


def test_f1_counts_words_as_often_as_they_occur() -> None:
    alike = f1(["a a b", "a b b", "b a a", "", " "])
    assert alike[0].tolist() == pytest.approx([1, 2 / 3, 1, 0, 0])
    assert alike[3].tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(alike, alike.T)


@torch.inference_mode()
@pytest.mark.parametrize("spec", ["temperature+best_of_n:n=3", "top_p:p=0.9+best_of_n:n=3,score=sum",
                                  "beam:width=3+best_of_n:n=3", "temperature+best_of_n:n=2+best_of_n:n=2"])
@pytest.mark.slow  # tests/law runs every strategy so at its defaults
def test_texts_side_by_side_get_the_tokens_they_have_alone(spec: str) -> None:
    strategy, target = STRATEGIES.build(spec), engine(tiny_model("llama"))
    jobs = [partial(decode, strategy, target, prompt * 2, new=12) for prompt in prompts(scaled(5, 7), 97, 5)]
    alone = [job() for job in jobs]
    assert run_batched([target], jobs, 3) == run_batched([target], jobs, 16) == alone


def test_votes_need_words() -> None:
    target: Engine = markov()
    for spec in ("self_consistency:n=2", "mbr:n=2"):
        with pytest.raises(Unsupported, match="prompt as text"):
            whole(Session(target), asked(text=None), STRATEGIES.build(spec))


@torch.inference_mode()
def test_answers_share_their_forwards_and_a_search_is_run_once() -> None:
    target = engine(tiny_model("llama"))
    for over, most in ((Temperature(temperature=1.0), 21), (Beam(width=6), 20)):
        session, before = Session(target), target.forwards
        answers = drawn(session, Request(tuple(prompts(1, 97, 3)[0]), 20, PhiloxStream(3)), over, 6)
        assert target.forwards - before <= most
        assert len({tuple(answer) for answer in answers}) == 6
        session.close()
    assert target.open_rows == 0


@pytest.mark.parametrize("spec", ["best_of_n:n=4", "self_consistency:n=4", "deepconf:n=6,warmup=3,window=4",
                                  "cot_decoding:k=3"])
def test_answers_that_are_drawn_again_are_the_same(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room in the KV cache for all of them, they are drawn anew, one after the other."""
    target = engine(tiny_model("llama"))
    tasks = [(STRATEGIES.build(f"temperature:temperature=1.5+{spec}"), target, prompt) for prompt in prompts(3, 97, 4)]
    wanted = [decode(*task, new=12) for task in tasks]

    def twice(session: Session, jobs: Sequence[Callable[[], object]]) -> list[object]:
        for job in jobs[:2]:
            job()
        return [job() for job in jobs]
    monkeypatch.setattr(Session, "run_batched", twice)
    assert [decode(*task, new=12) for task in tasks] == wanted
