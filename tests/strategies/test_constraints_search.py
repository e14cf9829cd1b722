"""Searches under constraints: goldens on the chain, brute force, and beam search without constraints."""

import math
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import permutations, product

import pytest
import torch

from harness.decoding.constrained import ConstrainedSearch
from harness.decoding.constraints import Clause, Constraints, Matches, Progress, Turns
from harness.decoding.search import Hypothesis
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.plugins.strategy import Request, RequestText
from strategies.beam import Beam
from strategies.constrained_beam import ConstrainedBeam
from strategies.dba import Dba
from strategies.greedy import Greedy
from strategies.grid_beam import GridBeam
from strategies.neurologic import NeuroLogic
from strategies.neurologic_astar import Lookahead, NeuroLogicAstar
from tests.decode import decode, engine
from tests.markov import END, START, A, B, letters, markov
from tests.models import EOS, prompts, tiny_model
from tests.scale import scaled

METHODS: tuple[type[ConstrainedSearch], ...] = (ConstrainedBeam, GridBeam, Dba, NeuroLogic, NeuroLogicAstar)
ONE: Clause = ((B,),)


@cache
def model(arch: str, vocab: int = 97, seed: int = 0) -> Engine:
    return engine(tiny_model(arch, vocab=vocab, seed=seed, sharpness=2.5 if vocab > 9 else 0.8))


@torch.inference_mode()
def searched(strategy: ConstrainedSearch, target: Engine, prompt: Sequence[int], wanted: Constraints, new: int,
             eos: int, **request: object) -> list[Hypothesis]:
    """The final list."""
    session = Session(target)
    try:
        return strategy.search(session, Request(tuple(prompt), new, PhiloxStream(0), frozenset({eos}), **request),  # type: ignore[arg-type]
                               wanted)
    finally:
        session.close()


def chain(strategy: ConstrainedSearch, *clauses: Clause, banned: tuple[tuple[int, ...], ...] = ()) -> list[Hypothesis]:
    return searched(strategy, markov(), [START], Constraints(clauses, banned), 4, END)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("clauses", "golden", "log_p"), [
    ([ONE], "b$", -1.9661), ([((A,),), ONE], "ab$", -2.4079), ([((A, B),)], "ab$", -2.4079),
    ([((A,), (B,))], "a$", -1.7148), ([((A, A), (B,))], "b$", -1.9661), ([((B, A),)], "ba$", -2.5639)])
def test_the_best_text_with_all_that_is_wanted(method: type[ConstrainedSearch], clauses: list[Clause], golden: str,
                                               log_p: float) -> None:
    """M1; the last clauses have alternatives. "b$" beats "ab$" where "b" is wanted (specs/quality 8.3)."""
    first = chain(method(length_penalty=0.0), *clauses)[0]
    assert (letters(first.tokens), first.log_p) == (golden, pytest.approx(log_p, abs=1e-4))


@pytest.mark.parametrize("method", [GridBeam, Dba])
def test_what_is_wanted_twice_is_written_twice(method: type[ConstrainedSearch]) -> None:
    assert letters(chain(method(length_penalty=0.0), ONE, ONE)[0].tokens) == "abab"


@pytest.mark.parametrize("method", METHODS)
def test_what_is_banned_is_never_written(method: type[ConstrainedSearch]) -> None:
    assert letters(chain(method(length_penalty=0.0), banned=((A,), (END,)))[0].tokens) == "bbbb"
    found = chain(method(length_penalty=0.0), ONE, banned=((B, END), (B, A)))
    assert letters(found[0].tokens) == "aaab"
    assert not any("ba" in letters(h.tokens) or "b$" in letters(h.tokens) for h in found)


def test_a_text_that_is_too_short_for_all_has_what_fits() -> None:
    six: list[Clause] = [((B,),)] * 6
    assert letters(chain(GridBeam(), *six)[0].tokens) == letters(chain(Dba(), *six)[0].tokens) == "bbbb"
    assert letters(chain(GridBeam(), *six[:4])[0].tokens) == "bbbb"  # as many tokens as there are


@pytest.mark.parametrize("method", METHODS)
def test_where_every_way_on_is_forbidden_the_text_so_far_is_the_answer(method: type[ConstrainedSearch]) -> None:
    wanted = Constraints((((B, A),),))  # a stop string would end all texts after so many tokens, and too early
    at_once = searched(method(width=4), markov(), [START], wanted, 4, END, stopped=lambda new: True)
    later = searched(method(width=4), markov(), [START], wanted, 4, END, stopped=lambda new: len(new) > 1)
    assert [[len(h.tokens) for h in found] for found in (at_once, later)] == [[0], [1]]


def test_the_grid_leaves_out_what_cannot_come_to_the_end() -> None:
    """With three required tokens of four, every hypothesis of the final list has all."""
    assert {letters(h.tokens) for h in chain(GridBeam(width=50), ONE, ONE, ((A,),))} >= {"abab", "baba", "bba$"}
    assert all(h.state.finished for h in chain(GridBeam(width=50), ONE, ONE, ((A,),)))


def test_candidates_of_dynamic_beam_allocation() -> None:
    """The best of all, the required tokens, and the best of every hypothesis (specs/quality 8.4)."""
    front = Dba(width=2).front(Session(markov()), Request((START,), 4, PhiloxStream(0)), Constraints((((3,),),)))
    front.live = front.live * 2
    scores = torch.tensor([[-1.0, -1.5, -4.0, -9.0, -3.0], [-6.0, -7.0, -5.0, -8.0, -9.0]])
    assert {place[:2] for place in front.proposed(scores)} == {(0, 0), (0, 1), (1, 2), (0, 3), (1, 3)}


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_what_is_wanted_changes_nothing(method: type[ConstrainedSearch]) -> None:
    clauses: list[Clause] = [((5, 6),), ((7,), (8, 9)), ((10,),)]
    where = prompts(1, 97, 3)[0]
    found = [searched(method(), model("gpt2"), where, Constraints(tuple(order)), 12, EOS)
             for order in list(permutations(clauses))[::scaled(2, 1)]]
    assert all(one == found[0] for one in found)


def test_looking_ahead_finds_the_best_text_with_one_beam() -> None:
    """Specs/quality 8.5: only a search that sees "b" coming prefers it at once to the likelier "a"."""
    plain = NeuroLogic(width=1, length_penalty=0.0, early_stop=2.0)
    ahead = NeuroLogicAstar(width=1, length_penalty=0.0, early_stop=2.0, alpha=1.0, lookahead=64)
    assert [letters(h.tokens) for h in chain(plain, ONE)] == ["ab$"]
    assert [letters(h.tokens) for h in chain(ahead, ONE)] == ["b$"]


# Brute force on a small model that reads its whole prefix: every text of at most four tokens.
VOCAB, LENGTH, END_ = 4, 4, 2


@cache
def texts(arch: str, where: tuple[int, ...]) -> dict[tuple[int, ...], float]:
    """Return log p of every sequence that ends with EOS or has LENGTH tokens."""
    found, open_ = {}, {(): 0.0}
    for _ in range(LENGTH):
        grown = {}
        with torch.inference_mode():
            said = model(arch, VOCAB).model(torch.tensor([[*where, *text] for text in open_])).logits[:, -1].float()
        for (text, log_p), row in zip(open_.items(), said.log_softmax(-1).tolist(), strict=True):
            for token, more in enumerate(row):
                (found if token == END_ else grown)[*text, token] = log_p + more
        open_ = grown
    return found | open_


def contained(text: Sequence[int], wanted: Constraints) -> bool:
    """Return whether the sequence has a phrase of every clause, overlaps allowed."""
    return all(any(tuple(text[i:i + len(phrase)]) == phrase for phrase in clause for i in range(len(text)))
               for clause in wanted.clauses)


def apart(text: tuple[int, ...], wanted: Constraints) -> bool:
    """Return whether the sequence has a phrase of every clause without overlaps."""
    if not wanted.clauses:
        return True
    rest = Constraints(wanted.clauses[1:])
    return any(text[i:i + n] == phrase and apart((*text[:i], *[-1] * n, *text[i + n:]), rest)
               for phrase in wanted.clauses[0] for n in [len(phrase)] for i in range(len(text)))


def soon(text: tuple[int, ...], wanted: Constraints) -> bool:
    """Return whether the sequence meets all clauses by sockeye's count."""
    state = Progress(wanted)
    for token in text:
        state = state.advance(token)
    return state.finished


def turned(text: tuple[int, ...], wanted: Constraints) -> bool:
    """Return whether the sequence meets one clause after another by transformers' count."""
    state: Turns = Turns(wanted)
    for token in text:
        state = state.advance(token)
    return state.finished


JUDGES: dict[type[ConstrainedSearch], Callable[[tuple[int, ...], Constraints], bool]] = {
    ConstrainedBeam: turned, Dba: soon, NeuroLogic: contained, NeuroLogicAstar: contained}
SETS: list[list[Clause]] = [[((0,),)], [((0,),), ((3,),)], [((1, 3),)], [((0,), (3, 1)), ((1,),)], [((1, 1),), ((3,),)],
                            [((1,),), ((1,),)], [((0, 1),), ((1, 0),)], [((0,),), ((1,),), ((3,),)]]


@pytest.mark.parametrize("arch", ["llama", "gpt2"])
@pytest.mark.parametrize("method", [*METHODS, partial(GridBeam, variant="counted")])
def test_a_wide_search_is_exact(method: type[ConstrainedSearch], arch: str) -> None:
    options = {"prune": 10**6, "tolerance": 9} if method in METHODS[3:] else {}
    for where, clauses, penalty in product(((3, 1), (0, 1, 3))[:scaled(1, 2)], SETS, (0.0, 1.0)):
        wanted = Constraints(tuple(clauses))
        exact = {text: log_p / len(text)**penalty for text, log_p in texts(arch, where).items()
                 if JUDGES.get(method, apart)(text, wanted)}
        strategy = method(width=256, length_penalty=penalty, early_stopping="never", **options)
        first = searched(strategy, model(arch, VOCAB), where, wanted, LENGTH, END_)[0]
        assert first.tokens in exact
        assert first.score / len(first.tokens)**penalty == pytest.approx(max(exact.values()), abs=1e-5)
        assert first.log_p == pytest.approx(texts(arch, where)[first.tokens], abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("width", [1, 2, pytest.param(5, marks=pytest.mark.slow), 11])
def test_a_text_that_ends_has_all_that_is_wanted(method: type[ConstrainedSearch], width: int) -> None:
    """For any width, and also if a stop string would end the sequence."""
    wanted, ended = Constraints((((5,), (6, 7)), ((8, 3),), ((4,),))), 0
    options = {"prune": 10**6, "early_stop": 9.0} if issubclass(method, NeuroLogic) else {}
    strategy = method(width=width, length_penalty=0.0, **options)
    for number, where in enumerate(prompts(4, 9, 7)):
        stop = {"stopped": lambda new: new[-1] == 1} if number % 2 else {}
        for one in searched(strategy, model("llama", 9), where, wanted, 9, EOS, **stop):
            ended += one.tokens[-1] in (EOS, 1)
            assert contained(one.tokens, wanted) or (len(one.tokens) == 9 and one.tokens[-1] != EOS)
            assert contained(one.tokens, wanted) or method is not GridBeam
            assert EOS not in one.tokens[:-1]
            assert not stop or 1 not in one.tokens[:-1]
    assert ended or (issubclass(method, NeuroLogic) and width < 11)  # which keeps too few groups to meet all


@cache
def beams(strategy: Beam, arch: str, where: tuple[int, ...]) -> list[list[int]]:
    return [decode(strategy, model(arch), list(where), sample=i, new=16) for i in range(strategy.width)]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "opt"])
def test_without_constraints_it_is_beam_search(method: type[ConstrainedSearch], arch: str) -> None:
    for width, penalty, stopping, rule in ((1, 1.0, "false", "power"), (4, 0.6, "true", "gnmt")):
        options = {"width": width, "length_penalty": penalty, "early_stopping": stopping, "length_rule": rule}
        where = prompts(2, 97, 1)[width % 2]
        request = Request(tuple(where), 16, PhiloxStream(0), frozenset({EOS}))
        expected = beams(Beam(**options), arch, tuple(where))  # type: ignore[arg-type]
        found = searched(method(**options), model(arch), where, Constraints.of(request), 16, EOS)  # type: ignore[arg-type]
        assert [[*one.tokens] for one in found] == expected
        assert width > 1 or expected == [decode(Greedy(), model(arch), where, new=16)]


def worded(strategy: ConstrainedSearch, target: Engine, prompt: list[int], wanted: tuple[tuple[str, ...], ...]
           ) -> list[int]:
    """Return constraints as a run gets them: as words, here spelled as numbers."""
    def numbers(text: str) -> list[int]:
        return [int(one) for one in text.split()]
    words = RequestText("", numbers, numbers, str, str, wanted=wanted)
    session = Session(target)
    try:
        request = Request(tuple(prompt), 8, PhiloxStream(0, *prompt), frozenset({EOS}), text=words)
        return [*next(iter(strategy.generate(session, request)))]
    finally:
        session.close()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("at_once", [3, 16])
@torch.inference_mode()
@pytest.mark.slow  # tests/law runs every strategy so at its defaults
def test_texts_side_by_side_get_the_tokens_they_have_alone(method: type[ConstrainedSearch], at_once: int) -> None:
    options = {"rollout": "sample", "rollouts": 2, "lookahead": 2} if method is NeuroLogicAstar else {}
    strategy, clauses = method(width=3, **options), [(("5",), ("20 21", "22"))[:i % 3] for i in range(16)]
    jobs = [partial(worded, strategy, model("llama"), prompt, wanted)
            for prompt, wanted in zip(prompts(scaled(5, 7), 97, 5), clauses, strict=False)]
    assert run_batched([model("llama")], jobs, at_once) == [job() for job in jobs]


@pytest.mark.parametrize("clauses", [[((5,),)], [((20, 21),), ((7,), (8, 9))]])
def test_without_a_weight_looking_ahead_changes_nothing(clauses: list[Clause]) -> None:
    for where in prompts(2, 97, 9):
        options = {"width": 4, "beta": 0.3, "prune": 400}
        plain, ahead = (searched(strategy, model("opt"), where, Constraints(tuple(clauses)), 10, EOS) for strategy in
                        (NeuroLogic(**options), NeuroLogicAstar(**options, alpha=0.0)))  # type: ignore[arg-type]
        assert ahead == plain


@pytest.mark.parametrize("rollout", ["greedy", "beam"])
@torch.inference_mode()
def test_what_is_seen_ahead_is_what_the_model_says(rollout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against whole texts read anew: every place of every missing phrase's usual form, open ones at once only."""
    seen: list[tuple[Hypothesis, float, int]] = []
    usual = Lookahead.estimates

    def estimates(self: Lookahead, kept: list[Hypothesis], room: int) -> list[float]:
        found = usual(self, kept, room)
        seen.extend((child, value, room) for child, value in zip(kept, found, strict=True))
        return found

    monkeypatch.setattr(Lookahead, "estimates", estimates)
    wanted, where = Constraints((((5, 6, 7),), ((8,), (3, 1)))), prompts(1, 9, 2)[0]
    strategy = NeuroLogicAstar(width=2, lookahead=3, rollout=rollout, rollouts=2)
    searched(strategy, model("llama", 9), where, wanted, 6, EOS)
    assert len(seen) > 20
    for child, value, room in seen:
        assert value == pytest.approx(expected(where, child, room, 1 if rollout == "greedy" else 2), abs=1e-4)


def says(text: Sequence[int]) -> list[float]:
    """log p of the next token."""
    found: list[float] = model("llama", 9).model(torch.tensor([[*text]])).logits[0, -1].float().log_softmax(-1).tolist()
    return found


def expected(where: list[int], child: Hypothesis, room: int, beams: int) -> float:
    """Compute the best mean log p of the missing phrases, by beams of a few tokens."""
    found, texts_ = -math.inf, [(0.0, [*where, *child.tokens])]
    state: Matches = child.state
    for offset in range(min(3, room)):
        phrases = [clause[0] for clause in state.unmet()]
        phrases += [place.phrase[place.done:] for place in state.open] if not offset else []
        for (_, text), phrase in product(texts_, phrases):
            if offset + len(phrase) <= room:
                found = max(found, sum(says([*text, *phrase[:i]])[token] for i, token in enumerate(phrase))
                            / len(phrase))
        more = [(score + log_p, [*text, token]) for score, text in texts_ for token, log_p in enumerate(says(text))]
        texts_ = [one for one in sorted(more, reverse=True)[:beams] if one[1][-1] != EOS]
    return found


def test_the_score_is_log_p_alone_and_the_cost_is_that_of_looking() -> None:
    wanted, where = Constraints((((5,),), ((6, 7),))), prompts(1, 97, 2)[0]
    session = Session(model("llama"))
    request = Request(tuple(where), 6, PhiloxStream(0), frozenset({EOS}))
    pool = NeuroLogicAstar(width=3, lookahead=2, prune=10**6).search(session, request, wanted)
    session.close()
    for one in pool:
        with torch.inference_mode():
            said = model("llama").model(torch.tensor([[*where, *one.tokens]])).logits[0].float().log_softmax(-1)
        log_p = sum(float(said[len(where) - 1 + i, token]) for i, token in enumerate(one.tokens))
        assert (one.score, one.log_p) == (pytest.approx(log_p, abs=1e-4), pytest.approx(log_p, abs=1e-4))
    assert session.work.forwards <= 6 + 6 * 3


def test_samples_of_what_comes_depend_on_the_stream_alone() -> None:
    strategy = NeuroLogicAstar(width=3, lookahead=3, rollout="sample", alpha=2.0)
    wanted, where = Constraints((((5,),), ((6, 7),))), prompts(1, 97, 2)[0]
    assert searched(strategy, model("gpt2"), where, wanted, 6, EOS) == searched(
        strategy, model("gpt2"), where, wanted, 6, EOS)
