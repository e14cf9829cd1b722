"""In-context navigation finds answers with different first tokens; reranking by the question's probability."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from harness.decoding.samples import whole
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, RequestText, Strategy
from strategies import trlm_rerank
from strategies.best_of_n import BestOfN
from strategies.greedy import Greedy
from strategies.icn import Icn
from strategies.temperature import Temperature
from strategies.trlm_rerank import TrlmRerank, echo
from tests.decode import decode, engine
from tests.markov import END, START, TABLE, A, B, Markov, letters, markov
from tests.models import EOS, prompts, tiny_model
from tests.scale import scaled

IDS = {"a": A, "b": B, "$": END, "^": START}


def ids(text: str) -> list[int]:
    """Return the token ids of letters of the chain; other characters are left out."""
    return [IDS[letter] for letter in text if letter in IDS]


CHAIN = RequestText("^", lambda text: [START, *ids(text)], ids, lambda tokens: letters(list(tokens)), lambda text: text)
NUMBERS = RequestText("5 6", lambda text: [int(word) % 97 for word in text.split() if word.isdigit()] or [3],
                lambda text: [int(word) % 97 for word in text.split() if word.isdigit()],
                lambda tokens: "".join(f" {token}" for token in tokens), lambda text: text[-1:] or None)


def asked(**more: object) -> Request:
    return replace(Request((START,), 4, PhiloxStream("M1"), frozenset({END}), text=CHAIN), **more)


def numbered(prompt: Sequence[int], new: int = 12) -> Request:
    """Return a request to a tiny model whose words are token ids."""
    words = replace(NUMBERS, prompt=" ".join(map(str, prompt)))
    return Request(tuple(prompt), new, PhiloxStream(0, *prompt), frozenset({EOS}), text=words)


def job(strategy: Strategy, target: Engine, prompt: Sequence[int]) -> list[int]:
    session = Session(target)
    try:
        return whole(session, numbered(prompt), strategy)
    finally:
        session.close()


@dataclass(frozen=True)
class Told(Strategy):
    """Writes sample i of its script."""

    texts: tuple[str, ...] = ()

    paper = family = "test"
    guarantee = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        yield ids(self.texts[request.sample])


def ways(strategy: Icn, request: Request, most: int = 99) -> list[str]:
    return [letters(way) for way in strategy.answers(Session(markov()), request, most)]


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "opt"])
def test_one_round_is_greedy(arch: str) -> None:
    target, one = engine(tiny_model(arch)), Icn(over=Greedy(), rounds=1)
    for prompt in prompts(4, seed=3):
        assert decode(one, target, prompt) == decode(Greedy(), target, prompt)
        assert decode(one, target, prompt, new=1) == decode(Greedy(), target, prompt, new=1)


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "opt"])
def test_over_greedy_all_is_greedy(arch: str) -> None:
    target = engine(tiny_model(arch))
    for spec in ("best_of_n:n=3", "self_consistency:n=3", "mbr:n=3", "mbr:n=3,itself=false,utility=bleu",
                 "mbr:n=3,weights=probability", "trlm_rerank:n=3,mix=0.5", "icn:rounds=1"):
        for prompt in prompts(2, seed=6):
            assert job(STRATEGIES.build(f"greedy+{spec}"), target, prompt) == job(Greedy(), target, prompt)


def test_first_tokens_are_tried_in_their_order_and_the_list_is_read() -> None:
    assert ways(Icn(over=Greedy(), listed=False), asked()) == ["abab", "baba", "$"]
    below = replace(CHAIN, prompt="^\nb")  # after the list the model is where b has been said: then $ before b
    assert ways(Icn(over=Greedy()), asked(text=below)) == ["abab", "$", "baba"]
    assert ways(Icn(over=Greedy(), rounds=1, picks=3), asked(text=below)) == ["abab", "baba", "$"]
    assert ways(Icn(over=Greedy(), rounds=2, picks=2), asked(text=below), 3) == ["abab", "baba", "$"]
    tail = replace(CHAIN, prompt="^\n$")  # after $ nothing else is possible
    assert ways(Icn(over=Greedy()), asked(text=tail)) == ["abab", "$"]


def test_without_the_list_it_branches_on_the_likeliest_first_tokens() -> None:
    target = engine(tiny_model("llama"))
    for prompt in prompts(3, seed=8):
        found = Icn(over=Greedy(), rounds=6, listed=False).answers(Session(target), numbered(prompt), 6)
        assert found == Icn(over=Greedy(), rounds=1, picks=6).answers(Session(target), numbered(prompt), 6)
        session = Session(target)
        session.follow(prompt)
        first = session.read().logits[0].topk(6).indices.tolist()
        assert [way[0] for way in found] == first
        assert found == [way if way == [EOS] else [way[0], *decode(Greedy(), target, [*prompt, way[0]], new=11)]
                         for way in found]


@pytest.mark.parametrize("listed", [True, False])
def test_first_tokens_differ(listed: bool) -> None:
    target = engine(tiny_model("qwen2"))
    for prompt in prompts(scaled(2, 3), seed=1):
        found = Icn(over=Greedy(), rounds=3, picks=4, listed=listed).answers(Session(target), numbered(prompt), 12)
        assert len({way[0] for way in found}) == len(found) == 12


def test_the_list_stands_where_the_answers_would_and_loses_its_oldest() -> None:
    told, found = numbered([5, 6]), [[7, 8], [9], [10, 11, 12]]
    lines = replace(told, text=replace(NUMBERS, prompt="5 6\n40 41"))
    icn = Icn(over=Greedy())
    assert icn.shown(lines, found, 99) == [7, 8, 40, 41, 9, 40, 41, 10, 11, 12, 40, 41]
    assert icn.shown(lines, found, 12) == [9, 40, 41, 10, 11, 12, 40, 41]
    assert icn.shown(lines, found, 9) == icn.shown(lines, found[1:], 99)
    assert icn.shown(lines, found, 3) == icn.shown(lines, [], 99) == []
    assert Icn(over=Greedy(), listed=False).shown(lines, found, 99) == []


def test_a_list_that_is_too_long_for_the_model_is_no_error() -> None:
    target = engine(tiny_model("llama"))
    short = Engine(target.model, 40)
    found = Icn(over=Greedy(), rounds=8).answers(Session(short), numbered([5, 6, 7], 20), 8)
    assert len(found) == 8


def test_the_prompt_and_what_is_listed_are_read_once() -> None:
    target, prompt = engine(tiny_model("llama")), prompts(1)[0] * 5
    session, request = Session(target), numbered(prompt, 6)
    found = Icn(over=Greedy(), rounds=5).answers(session, request, 5)
    listed = len(prompt) * 4 + sum(map(len, found[:4]))  # the prompt is one line, which follows each answer
    assert session.work.positions <= len(prompt) + listed + sum(map(len, found)) + 5
    assert target.open_rows == 1
    session.close()


def test_the_vote_and_the_ways() -> None:
    counts = replace(CHAIN, answer=lambda text: str(len(text)) if len(text) < 4 else None)
    flat = Icn(over=Greedy(), listed=False)
    assert letters(whole(Session(markov()), asked(text=counts), flat)) == "$"  # the only one that says anything
    silent = replace(CHAIN, answer=lambda text: None)
    assert letters(whole(Session(markov()), asked(text=silent), flat)) == "abab"
    ends = replace(CHAIN, answer=lambda text: text[-1])
    assert letters(whole(Session(markov()), asked(text=ends, max_new_tokens=3), flat)) == "aba"  # a, b, $: the first
    last = replace(CHAIN, answer=lambda text: str(text.count("b") // 2))
    assert letters(whole(Session(markov()), asked(text=last), flat)) == "abab"
    one = Icn(over=Greedy(), listed=False, gives="ways")
    assert [letters(whole(Session(markov()), asked(sample=i), one)) for i in range(4)] == ["abab", "baba", "$", "$"]
    assert (one.max_samples(), flat.max_samples()) == (4, None)


def test_a_stop_string_may_begin_with_the_first_token() -> None:
    request = asked(stopped=lambda new: tuple(new[-2:]) == (A, B))
    assert ways(Icn(over=Greedy(), listed=False), request) == ["ab", "bab", "$"]


@torch.inference_mode()
@pytest.mark.parametrize("spec", ["icn:rounds=3", "icn:rounds=2,picks=2,listed=false", "temperature+trlm_rerank:n=3",
                                  "temperature+self_consistency:n=3", "temperature+mbr:n=3,weights=probability",
                                  "temperature+trlm_rerank:n=3,mix=0.5"])
@pytest.mark.slow  # tests/law runs every strategy so at its defaults
def test_texts_side_by_side_get_the_tokens_they_have_alone(spec: str) -> None:
    strategy, target = STRATEGIES.build(spec), engine(tiny_model("llama"))
    jobs = [partial(job, strategy, target, prompt) for prompt in prompts(scaled(5, 7), 97, 5)]
    alone = [each() for each in jobs]
    assert run_batched([target], jobs, 3) == run_batched([target], jobs, 16) == alone
    assert target.open_rows == 0


def reranked(texts: Sequence[str], request: Request | None = None, **knobs: float) -> str:
    strategy = TrlmRerank(over=Told(texts=tuple(texts)), n=len(texts), **knobs)
    return letters(whole(Session(markov()), request or asked(), strategy))


def test_a_prompt_that_hides_the_answer_does_not_reorder() -> None:
    asks = asked(text=replace(CHAIN, prompt="ab$ba"))  # the chain forgets all before the fixed words
    for texts in (["bb$", "a$", "ab$"], ["a$", "bb$"]):
        assert reranked(texts, asks) == texts[0]


def test_the_answer_that_tells_the_question_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BEFORE", "AFTER"):
        monkeypatch.setattr(trlm_rerank, name, "")
    texts, asks = ["b", "a", "aba", "abab"], asked(text=replace(CHAIN, prompt="ba$"))
    assert reranked(texts, asks) == "a"                        # p(b | a) is .5, p(b | b) .05: the first that ends in a
    scores = TrlmRerank(over=Greedy()).backward(Session(markov()), asks, texts)
    tail = math.log(0.55) + math.log(0.4)                      # a after b, and $ after a
    assert scores == pytest.approx([(math.log(first) + tail) / 3 for first in (0.05, 0.5, 0.5, 0.05)], abs=1e-6)
    assert reranked(texts, asks, mix=1.0) == letters(whole(Session(markov()), asks, BestOfN(
        over=Told(texts=tuple(texts)), n=4)))
    mixed = [0.5 * back + 0.5 * forward for back, forward in zip(scores, [
        math.log(0.35), math.log(0.45), math.log(0.45 * 0.5 * 0.55) / 3, math.log(0.45 * 0.5 * 0.55 * 0.5) / 4],
        strict=True)]
    assert [reranked(["aa", "abab"], asks, mix=mix) for mix in (0.4, 0.7)] == ["aa", "abab"]  # even at .473
    assert reranked(texts, asks, mix=0.5) == texts[mixed.index(max(mixed))]


def test_on_the_inverted_chain_the_score_is_that_of_bayes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The inverted chain gives a question the same probability given the answer as the chain itself."""
    for name in ("BEFORE", "AFTER"):
        monkeypatch.setattr(trlm_rerank, name, "")
    forth = torch.tensor([[0.1, 0.5, 0.4], [0.55, 0.05, 0.4], [0.3, 0.6, 0.1]], dtype=torch.float64)
    rest = torch.linalg.matrix_power(forth, 200)[0]  # how often each letter occurs in the long run
    back = rest[None, :] * forth.T / rest[:, None]
    assert (back - forth).abs().max() > 0.05

    def table(law: Tensor) -> Tensor:
        whole = torch.zeros_like(TABLE)
        whole[0, 1:], whole[1:, 1:] = rest, law
        return whole

    def log_p(text: str) -> float:
        steps = ids("^" + text)
        return sum(math.log(table(forth)[a, b]) for a, b in pairwise(steps))
    reverse = replace(CHAIN, encode=lambda text: [START, *ids(text)[::-1]], tokens=lambda text: ids(text)[::-1])
    session = Session(Engine(Markov(table(back)), 64))
    for question in ("ab$b", "$$a", "b"):
        request, answers = asked(text=replace(reverse, prompt=question)), ["a", "ba$", "$bb", "abab"]
        scores = TrlmRerank(over=Greedy()).backward(session, request, answers)
        wanted = [(log_p(question + answer) - log_p(answer)) / len(question) for answer in answers]
        assert scores == pytest.approx(wanted, abs=1e-5)


def test_an_echo_is_not_written_unless_all_are() -> None:
    question = "how many bags of red stones are there in all"
    assert echo("how many bags of red stones", question) == 1.0
    assert echo("there are in all nine bags of red stones", question) == 1 / 6
    assert echo("bags of red stones make nine", question) == pytest.approx(1 / 3)
    assert (echo("red stones", question), echo("", question), echo("one two three four", "one")) == (0.0, 0.0, 0.0)
    spaced = replace(CHAIN, prompt="b a b a b", decode=lambda tokens: " ".join(letters(list(tokens))))
    asks = asked(text=spaced)
    assert reranked(["baba", "bbbb"], asks) == "bbbb"
    assert reranked(["baba", "bbbb"], asks, copied=1.0) == "baba"
    assert reranked(["abab", "baba"], asks) == "abab"


def test_long_questions_and_answers_are_cut_to_the_model() -> None:
    target = engine(tiny_model("llama"))
    small, session = Engine(target.model, 40), Session(target)
    request = numbered([5, 6, 7] * 8, 10)
    one = TrlmRerank(over=Temperature(), n=2)
    assert len(one.backward(Session(small), request, ["1 2 3 " * 20, "4"])) == 2
    whole_ = one.backward(session, request, ["8 9"])
    last = TrlmRerank(over=Temperature(), n=2, most=24).backward(session, request, ["8 9"])
    assert last == whole_ != TrlmRerank(over=Temperature(), n=2, most=5).backward(session, request, ["8 9"])


def test_only_the_variant_without_training_is_offered() -> None:
    with pytest.raises(UserError, match="no knob 'variant'"):
        STRATEGIES.build("trlm_rerank:variant=ba")
