"""Power sampling: the kernel of its moves leaves p^alpha as it is, and rollouts estimate what it needs."""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product

import pytest
import torch
from torch import Tensor

from harness.decoding.samples import log_p, whole
from harness.engine.random_stream import CPU, PhiloxStream
from harness.engine.session import Session
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request
from strategies import power_rollouts
from strategies.power_rollouts import PowerRollouts, jackknife
from strategies.power_sampling import PowerSampling, Text
from tests.chain import chain_request
from tests.decode import decode, engine
from tests.markov import END, START, TABLE, A, B, letters, markov
from tests.models import prompts, tiny_model
from tests.scale import scaled
from tests.strategies.test_many_samples import spelt


class Branch:
    """Takes the given branches of all random decisions, then first ones, and notes its probability."""

    def __init__(self, path: Sequence[int]) -> None:
        self.path, self.taken, self.chance = path, list[tuple[int, int]](), 1.0

    def choose(self, weights: Tensor) -> int:
        options = weights.nonzero()[:, 0].tolist()
        branch = self.path[len(self.taken)] if len(self.taken) < len(self.path) else 0
        self.taken.append((branch, len(options)))
        self.chance *= float(weights[options[branch]] / weights.sum())
        return int(options[branch])

    def coin(self, chance: float) -> bool:
        return bool(self.choose(torch.tensor([1 - chance, chance], dtype=torch.float64)))

    def uniform(self, count: int, device: torch.device = CPU) -> Tensor:
        raise NotImplementedError

    def branch(self, number: int) -> "Branch":
        raise NotImplementedError


def law(run: Callable[[Branch], Sequence[int]]) -> dict[str, float]:
    """Return the probability of every outcome of `run`."""
    found, path = Counter[str](), list[int]()
    while True:
        stream = Branch(path)
        found[letters(list(run(stream)))] += stream.chance
        taken = stream.taken
        while taken and taken[-1][0] + 1 == taken[-1][1]:
            taken.pop()
        if not taken:
            return dict(found)
        path = [*(branch for branch, _ in taken[:-1]), taken[-1][0] + 1]


def powered(alpha: float, new: int = 4) -> dict[str, float]:
    """Return p^alpha of every text of at most `new` letters, normalised."""
    weights = {letters(text): math.prod(float(TABLE[last, token]) ** alpha
                                        for last, token in zip((START, *text[:-1]), text, strict=True))
               for size in range(1, new + 1) for text in product((A, B, END), repeat=size)
               if END not in text[:-1] and (size == new or text[-1] == END)}
    return {text: weight / sum(weights.values()) for text, weight in weights.items()}


def moved(power: PowerSampling, session: Session, text: str, new: int) -> dict[str, float]:
    """Return the law of the text after one move."""
    tokens = list(spelt(text)[0])
    old = Text(tokens, [(power.alpha * TABLE[last].double().log()).logsumexp(-1) for last in (START, *tokens[:-1])])
    return law(lambda stream: power.moved(session, chain_request(new, stream), old, new).tokens)


def kernel(power: PowerSampling, new: int) -> tuple[list[str], Tensor]:
    """Return all texts and the transition matrix of one move."""
    texts, session = list(powered(1, new)), Session(markov())
    laws = [moved(power, session, text, new) for text in texts]
    rows = torch.tensor([[after.get(text, 0.0) for text in texts] for after in laws], dtype=torch.float64)
    assert rows.sum(1).tolist() == pytest.approx([1.0] * len(texts))
    return texts, rows / rows.sum(1, keepdim=True)


def stationary(rows: Tensor) -> Tensor:
    """Return the law that moves lead to from any text."""
    return torch.linalg.matrix_power(rows, 4096)[0]


def distance(found: Tensor, texts: Sequence[str], exact: dict[str, float]) -> float:
    return sum(abs(float(p) - exact[text]) for p, text in zip(found, texts, strict=True)) / 2


@dataclass(frozen=True)
class NoFactor(PowerSampling):
    """Forgets that texts of different length choose a position with different probability."""

    def log_ratio(self, old: Text, new: Text, at: int) -> float:
        return super().log_ratio(old, new, at) - math.log(len(old.tokens) / len(new.tokens))


@dataclass(frozen=True)
class Overlap(PowerSampling):
    """Compares as many old tokens as there are new ones, but draws texts of any length."""

    def log_ratio(self, old: Text, new: Text, at: int) -> float:
        return PowerSampling(alpha=self.alpha, variant="official").log_ratio(old, new, at)


@torch.inference_mode()
def test_the_power_law_of_the_chain() -> None:
    for alpha, known in ((2, (.34002, .27542, .16661, .06885, .05040)), (4, (.50544, .33162, .12136, .02073, .01110))):
        exact = powered(alpha)
        assert [exact[text] for text in ("$", "a$", "b$", "ab$", "ba$")] == pytest.approx(known, abs=5e-6)
    first = [sum(p for text, p in powered(4).items() if text[0] == letter) for letter in "ab$"]
    assert first == pytest.approx((.35892, .13564, .50544), abs=5e-6)
    local = (TABLE[START, 1:].double() ** 4).tolist()
    assert [p / sum(local) for p in local] == pytest.approx((.71176, .26047, .02777), abs=5e-6)


@torch.inference_mode()
@pytest.mark.parametrize("alpha", [0.5, 2.0, 4.0])
def test_moves_leave_the_power_law_as_it_is(alpha: float) -> None:
    new = scaled(3, 4)
    texts, rows = kernel(PowerSampling(alpha=alpha), new)
    exact = powered(alpha, new)
    shares = torch.tensor([exact[text] for text in texts], dtype=torch.float64)
    flow = shares[:, None] * rows
    assert float((flow - flow.T).abs().max()) < 1e-6, "in detailed balance"
    assert distance(stationary(rows), texts, exact) < 1e-5


@torch.inference_mode()
@pytest.mark.slow
@pytest.mark.parametrize(("mistaken", "far"), [(NoFactor, .1785), (Overlap, .1788)])
def test_what_the_code_leaves_out_changes_the_law(mistaken: type[PowerSampling], far: float) -> None:
    texts, rows = kernel(mistaken(alpha=4.0), 4)
    assert distance(stationary(rows), texts, powered(4)) == pytest.approx(far, abs=5e-5)


@torch.inference_mode()
def test_the_variants_differ_and_the_official_one_never_grows() -> None:
    session = Session(markov())
    assert set(moved(PowerSampling(variant="official"), session, "b$", 4)) == {"$", "a$", "b$", *map(
        "".join, product("ab", repeat=2))}
    assert max(map(len, moved(PowerSampling(), session, "b$", 4))) == 4
    one = torch.ones(())
    old, new = Text([A, B, END], [-one, -2 * one, -4 * one]), Text([A, END], [-one, -one])
    assert PowerSampling().log_ratio(old, new, 1) == pytest.approx(-1 + 6 + math.log(3 / 2))
    assert PowerSampling(variant="official").log_ratio(old, new, 1) == pytest.approx(-1 + 2)
    assert PowerSampling(variant="official").log_ratio(new, old, 1) == pytest.approx(-6 + 1)


@torch.inference_mode()
def test_an_answer_is_a_draw_at_low_temperature_and_moves() -> None:
    session = Session(markov())

    def run(moves: int) -> Callable[[Branch], Sequence[int]]:
        power = PowerSampling(alpha=2.0, moves=moves, block=2)
        return lambda stream: whole(session, chain_request(2, stream), power)
    texts, rows = kernel(PowerSampling(alpha=2.0), 2)
    start, moved = law(run(0)), law(run(1))
    local = TABLE[START].double() ** 2
    assert start["$"] == pytest.approx(float(local[END] / local.sum()), abs=1e-6)
    once = torch.tensor([start[text] for text in texts], dtype=torch.float64) @ rows
    assert [moved[text] for text in texts] == pytest.approx(once.tolist(), abs=1e-6)


def tokens(spec: str, prompt: list[int], new: int = 24) -> list[int]:
    return decode(STRATEGIES.build(spec), engine(tiny_model("llama")), prompt, new=new)


@torch.inference_mode()
@pytest.mark.parametrize(("spec", "plain"), [
    ("power_sampling:moves=0", "temperature:temperature=0.25"), ("power_sampling:alpha=1", "temperature"),
    ("power_sampling:moves=0,block=5", "temperature:temperature=0.25"),
    ("power_rollouts:rollouts=0,candidates=5", "top_k:k=5,temperature=0.25"),
    ("power_rollouts:horizon=0,candidates=5,rollouts=2", "top_k:k=5,temperature=0.25"),
    ("power_rollouts:alpha=1,candidates=5", "top_k:k=5,temperature=1")])
def test_degenerate_settings_are_plain_sampling(spec: str, plain: str) -> None:
    for prompt in prompts(scaled(2, 5), 97, 7):
        assert tokens(spec, prompt) == tokens(plain, prompt)


@torch.inference_mode()
def test_moves_make_texts_likelier() -> None:
    target, totals = engine(tiny_model("llama")), Counter[int]()
    for prompt in prompts(scaled(6, 12), 97, 8):
        for moves in (0, 12):
            text = decode(PowerSampling(moves=moves, block=4), target, prompt, new=8, eos=None)
            assert len(text) == 8
            totals[moves] += float(log_p(Session(target), prompt, text).sum())  # type: ignore[assignment]
    assert totals[12] > totals[0]


def futures(rollouts: PowerRollouts, new: int = 4, text: Sequence[int] = ()) -> Tensor:
    """Return the log weights (3, M) of rollouts after `a`, `b` and `$`."""
    session, request = Session(markov()), chain_request(new, PhiloxStream("rollouts"))
    session.follow([START, *text])
    session.read()
    return rollouts.futures(session, request, list(text), [A, B, END])


@torch.inference_mode()
def test_rollouts_estimate_the_power_of_what_follows() -> None:
    zeta = futures(PowerRollouts(rollouts=1024)).exp().mean(1)
    assert zeta.tolist() == pytest.approx((.027708, .028613, 1), rel=0.1)
    near = futures(PowerRollouts(rollouts=1024, horizon=1)).exp().mean(1)
    assert near.tolist() == pytest.approx([float((TABLE[last, 1:] ** 4).sum()) for last in (A, B)] + [1], rel=0.1)
    assert futures(PowerRollouts(rollouts=4), new=1).eq(0).all()
    last = futures(PowerRollouts(rollouts=1024), new=4, text=[A, B]).exp().mean(1)  # one more token may follow
    assert last.tolist() == pytest.approx(near.tolist(), rel=0.1)
    scores = 4 * TABLE[START, 1:].double().log()
    probs = jackknife(scores, futures(PowerRollouts(rollouts=1024)))
    assert probs.tolist() == pytest.approx((.35892, .13564, .50544), abs=0.02)


@torch.inference_mode()
def test_rollouts_are_scored_by_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """With rollouts that take the likeliest token, log weights are those of greedy continuations."""
    def likeliest(rows: Tensor, stream: object) -> tuple[Tensor, Tensor]:
        return rows.argmax(-1), rows.amax(-1)
    monkeypatch.setattr(power_rollouts, "draw", likeliest)
    target, prompt, new = engine(tiny_model("llama")), prompts(1, 97, 3)[0], 7
    session = Session(target)
    session.follow(prompt)
    session.read()
    stopped = frozenset({decode(STRATEGIES.build("greedy"), target, [*prompt, 9], new=9, eos=None)[2]})
    found = PowerRollouts(rollouts=2, alpha=3.0).futures(session, Request(tuple(prompt), new, PhiloxStream(0), stopped),
                                                         [], [5, 9, 40])
    for row, token in zip(found.tolist(), (5, 9, 40), strict=True):
        request = Request((*prompt, token), new - 1, PhiloxStream(0), stopped)
        text = whole(Session(target), request, STRATEGIES.build("greedy"))
        assert token != 9 or len(text) < new - 1
        score = 2 * float(log_p(Session(target), [*prompt, token], text).sum())
        assert row == pytest.approx([score, score], abs=1e-4)


def test_the_jackknife() -> None:
    scores, weights = torch.randn(3, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)

    def estimate(some: Tensor) -> Tensor:
        likely = scores.exp() * some.exp().mean(1)
        return likely / likely.sum()
    parts = [estimate(weights[:, [j for j in range(4) if j != i]]) for i in range(4)]
    want = (4 * estimate(weights) - 3 * torch.stack(parts).mean(0)).clamp_min(0)
    assert torch.allclose(jackknife(scores, weights), want / want.sum())
    assert torch.allclose(jackknife(scores, weights[:, :1]), estimate(weights[:, :1]))
    assert torch.allclose(jackknife(scores, weights - 4000), jackknife(scores, weights)), "in logarithms"
    assert torch.allclose(jackknife(scores, weights[:, :0]), scores.softmax(-1))


def test_the_jackknife_reduces_the_bias() -> None:
    """The exact means of both estimates, four rollouts of one token after each of `a` and `b`."""
    scores = 4 * TABLE[START, 1:3].double().log()
    after = [TABLE[last, 1:].double() for last in (A, B)]
    true = (scores + torch.stack([(p ** 4).sum().log() for p in after])).softmax(-1)
    plain, better, total = torch.zeros(2).double(), torch.zeros(2).double(), 0.0
    draws = [(token, Counter(token)) for token in combinations_with_replacement(range(3), 4)]
    for left, right in product(draws, repeat=2):
        chance = math.prod(24 * math.prod(float(p[token]) ** count / math.factorial(count)
                                          for token, count in counts.items())
                           for p, (_, counts) in zip(after, (left, right), strict=True))
        weights = 3 * torch.stack([after[0][list(left[0])], after[1][list(right[0])]]).log()
        plain += chance * (scores + weights.logsumexp(-1)).softmax(-1)
        better += chance * jackknife(scores, weights)
        total += chance
    assert total == pytest.approx(1)
    assert (better - true).abs().sum() < 0.5 * (plain - true).abs().sum()


@torch.inference_mode()
def test_the_eos_of_a_prompt_does_not_end_an_answer() -> None:
    request = Request((START, END, START), 4, PhiloxStream(3), frozenset({END}))
    texts = {letters(whole(Session(markov()), Request(request.prompt, 4, PhiloxStream(i), request.eos),
                           PowerSampling(alpha=1.5, moves=2))) for i in range(12)}
    assert len(texts) > 2
