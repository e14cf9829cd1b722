"""Stochastic beam search draws without replacement: its distribution, inclusion probabilities and invariants."""

import math
from collections import Counter
from functools import cache
from itertools import permutations

import pytest
import torch
from scipy.stats import chisquare

from harness.decoding.search import Hypothesis
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.plugins.strategy import Request
from strategies.stochastic_beam import Perturbed, StochasticBeam, child_heights, included, weighed
from tests.chain import all_sequences, chain_request, hypotheses, run_on_table
from tests.chances import PROMPT, VOCAB, target
from tests.markov import letters, markov
from tests.scale import scaled

CHANCES = (0.5, 0.25, 0.15, 0.1)
LEAVES = torch.tensor(CHANCES)
RUNS = scaled(2000, 6000)
PAIRS = {(i, j): CHANCES[i] * CHANCES[j] / (1 - CHANCES[i]) for i, j in permutations(range(4), 2)}


def drawn(log_p: torch.Tensor, width: int, key: object, steps: int = 1, temperature: float = 1.0
          ) -> list[tuple[int, ...]]:
    """Return the sequences of a search over tables `log_p` (steps, V), without a model."""
    front = Perturbed.start(width, temperature, chain_request(steps, PhiloxStream("leaves", width, temperature, key)))
    while not front.done:
        step = len(front.live[0].tokens)
        front.advance(log_p[step].expand(len(front.live), -1), torch.empty(0))
    return [h.tokens for h in front.pool]


@cache
def two(steps: int) -> list[tuple[tuple[int, ...], ...]]:
    """Draw two of four leaves, `RUNS` times; with two steps each of two parents has two of the leaves."""
    tables = LEAVES.log()[None] if steps == 1 else torch.tensor([[0.6, 0.4], [0.7, 0.3]]).log()
    return [tuple(drawn(tables, 2, i, steps)) for i in range(RUNS)]


def test_chances_of_inclusion() -> None:
    """Specs/quality 2.3: two of four leaves, whose exact chances follow from drawing without replacement."""
    exact = [sum(p for pair, p in PAIRS.items() if i in pair) for i in range(4)]
    assert exact == pytest.approx([0.81046, 0.57190, 0.36667, 0.25098], abs=1e-5)
    seen = Counter(leaf for leaves in two(1) for (leaf,) in leaves)
    for leaf, chance in enumerate(exact):
        assert abs(seen[leaf] / RUNS - chance) < 4 * math.sqrt(chance * (1 - chance) / RUNS)


def on_chain(width: int, temperature: float, key: int) -> list[Hypothesis]:
    """Return the sequences of a search over the chain."""
    front = Perturbed.start(width, temperature, chain_request(stream=PhiloxStream("chain", width, temperature, key)))
    run_on_table(front)
    return front.pool


@pytest.mark.parametrize("steps", [1, 2])
def test_the_order_is_that_of_drawing_without_replacement(steps: int) -> None:
    """At one level, and at two where a leaf is reached by a first and a second token."""
    law = {(t,): p for t, p in enumerate(CHANCES)} if steps == 1 else \
        {(a, b): (0.6, 0.4)[a] * (0.7, 0.3)[b] for a in (0, 1) for b in (0, 1)}
    seen = Counter(two(steps))
    pairs = {(x, y): law[x] * law[y] / (1 - law[x]) for x, y in permutations(law, 2)}
    assert set(seen) <= set(pairs)
    assert chisquare([seen[pair] for pair in pairs], [RUNS * p for p in pairs.values()]).pvalue > 1e-3


def test_the_best_child_has_the_height_of_its_parent() -> None:
    heights, log_p = [0.3, -2.0, -1e3], torch.rand(3, 50, dtype=torch.float64).log_softmax(-1)
    log_p[:, 3] = -torch.inf
    got = child_heights(log_p, heights, PhiloxStream(4))
    assert got.amax(-1).tolist() == heights
    assert got[:, 3].tolist() == [-torch.inf] * 3
    assert not got.isnan().any()


def test_temperature_is_that_of_the_sampled_distribution() -> None:
    squares, runs = [p * p for p in CHANCES], scaled(1500, 4000)
    seen = Counter(drawn(LEAVES.log()[None], 1, i, temperature=0.5)[0][0] for i in range(runs))
    assert chisquare([seen[i] for i in range(4)], [runs * p / sum(squares) for p in squares]).pvalue > 1e-3


def test_all_texts_of_the_chain_and_none_twice() -> None:
    everyone = hypotheses(StochasticBeam(width=31))
    assert sorted(letters(h.tokens) for h in everyone) == sorted(all_sequences())
    for h in everyone:
        assert h.log_p == pytest.approx(all_sequences()[letters(h.tokens)], abs=1e-5)
        assert h.state == pytest.approx(h.log_p, abs=1e-5)
    for seed in range(50):
        some = hypotheses(StochasticBeam(width=5), PhiloxStream(seed))
        assert len({h.tokens for h in some}) == len(some) == 5
        assert [h.score for h in some] == sorted((h.score for h in some), reverse=True)


def test_one_beam_samples_the_chain() -> None:
    runs = scaled(1000, 3000)
    seen = Counter(letters(on_chain(1, 1.0, i)[0].tokens) for i in range(runs))
    common = [text for text, log_p in all_sequences().items() if runs * math.exp(log_p) >= 5]
    counts, shares = [seen[text] for text in common], [runs * math.exp(all_sequences()[text]) for text in common]
    assert chisquare([*counts, runs - sum(counts)], [*shares, runs - sum(shares)]).pvalue > 1e-3


def test_weights_estimate_means_without_bias() -> None:
    """The mean of 1 and the mean length, and the same for a distribution at another temperature."""
    mean = sum(math.exp(log_p) * len(text) for text, log_p in all_sequences().items())
    for temperature in (1.0, 1.5):
        totals, lengths, runs = list[float](), list[float](), scaled(500, 1500)
        for i in range(runs):
            sample = weighed(on_chain(5, temperature, i), 4)
            totals.append(sum(d.weight for d in sample))
            lengths.append(sum(d.weight * len(d.hypothesis.tokens) for d in sample))
        for values, exact in ((totals, 1.0), (lengths, mean)):
            found_mean, error = torch.tensor(values).mean(), torch.tensor(values).std() / math.sqrt(runs)
            assert abs(float(found_mean) - exact) < 4 * float(error)
    totals, runs = [], scaled(1500, 4000)
    for i in range(runs):  # one of four leaves and the next highest
        front = Perturbed.start(2, 1.0, chain_request(1, PhiloxStream("one of four", i)))
        front.advance(LEAVES.log()[None], torch.empty(0))
        totals.append(weighed(front.pool, 1)[0].weight)
    assert abs(sum(totals) / runs - 1) < 4 * float(torch.tensor(totals).std()) / math.sqrt(runs)
    every = StochasticBeam(31).weighted(Session(markov()), chain_request())
    assert sum(d.weight for d in every) == pytest.approx(1, abs=1e-5)
    assert included(math.log(0.5), -math.inf) == 1


def test_samples_of_a_prompt_are_one_draw() -> None:
    """Every sample has its own stream; the search uses the common one."""
    request = [Request(tuple(PROMPT), 4, PhiloxStream("own", i), sample=i, shared=PhiloxStream("all"))
               for i in range(6)]
    texts = [next(iter(StochasticBeam(width=6).generate(Session(target()), one))) for one in request]
    together = Request(tuple(PROMPT), 4, PhiloxStream("all"))
    assert texts == [h.tokens for h in StochasticBeam(width=6).search(Session(target()), together)]


def test_distribution_on_a_model() -> None:
    """The first sequence drawn has the model's distribution for any width; with one beam it is plain sampling."""
    with torch.inference_mode():
        first = target().model(torch.tensor([PROMPT])).logits[0, -1].double().softmax(-1)
    seen, runs = Counter[int](), scaled(300, 600)
    for i in range(runs):
        request = Request(tuple(PROMPT), 2, PhiloxStream("model", i))
        seen[StochasticBeam(width=3).search(Session(target()), request)[0].tokens[0]] += 1
    assert chisquare([seen[t] for t in range(VOCAB)], (runs * first / first.sum()).tolist()).pvalue > 1e-3
