"""Beam sampling against transformers, its identities, and the use of the engine by every search of this family."""

from collections import Counter
from collections.abc import Sequence
from functools import cache, partial

import pytest
import torch
import transformers
from packaging.version import Version
from scipy.stats import chi2_contingency, chisquare

from harness.decoding.search import Search, divisor
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.plugins.strategy import Request
from strategies.beam import Beam
from strategies.beam_sample import BeamSample, Drawn
from strategies.diverse_beam import DiverseBeam
from strategies.greedy import Greedy
from strategies.stochastic_beam import StochasticBeam
from strategies.uid_beam import UidBeam
from tests.chain import chain_request, run_on_table
from tests.decode import decode, engine
from tests.markov import TABLE
from tests.models import EOS, PAD, prompts, tiny_model
from tests.scale import scaled

VOCAB, NEW, RUNS = 8, 3, scaled(1500, 3000)
PROMPT = [3, 4, 5, 3]


@cache
def target(arch: str = "llama", vocab: int = 97) -> Engine:
    return engine(tiny_model(arch, vocab=vocab, sharpness=2.5 if vocab == 97 else 1.0))


@cache
def table() -> dict[tuple[int, ...], torch.Tensor]:
    """Return next-token log p (V,) after every sequence of fewer than NEW tokens below the prompt."""
    said, texts = dict[tuple[int, ...], torch.Tensor](), [()]
    for _ in range(NEW):
        ids = torch.tensor([[*PROMPT, *text] for text in texts])
        with torch.inference_mode():
            log_p = target(vocab=VOCAB).model(ids).logits[:, -1].float().log_softmax(-1)
        said.update(zip(texts, log_p, strict=True))
        texts = [(*text, token) for text in texts for token in range(VOCAB)]
    return said


def sampled(strategy: BeamSample, key: int) -> list[tuple[int, ...]]:
    """Return the pool of one search over the table."""
    request = Request(tuple(PROMPT), NEW, PhiloxStream("pool", strategy.spec(), key), frozenset({EOS}))
    front = strategy.front(request)
    while not front.done:
        front.advance(torch.stack([table()[h.tokens] for h in front.live]), torch.empty(0))
    return [h.tokens for h in front.pool]


def transformers_pools(temperature: float, penalty: float, p: float) -> list[tuple[tuple[int, ...], ...]]:
    """The two sequences of each of RUNS searches of the installed `generate`, best first."""
    torch.manual_seed(1)
    out = target(vocab=VOCAB).model.generate(
        torch.tensor([PROMPT] * RUNS), attention_mask=torch.ones(RUNS, len(PROMPT)), max_new_tokens=NEW,
        do_sample=True, num_beams=2, num_return_sequences=2, temperature=temperature, length_penalty=penalty,
        top_k=0, top_p=p, pad_token_id=PAD)
    rows = [tuple(row[len(PROMPT):].tolist()) for row in out]
    rows = [row[:row.index(EOS) + 1] if EOS in row else row for row in rows]
    return list(zip(rows[::2], rows[1::2], strict=True))


@pytest.mark.parametrize(("temperature", "penalty", "p"), [
    (1.4, 1.0, 0.8), *(pytest.param(*values, marks=pytest.mark.slow) for values in (
        (1.0, 1.0, 1.0), (0.7, 0.0, 1.0), (1.4, 2.0, 1.0)))])
def test_the_distribution_is_that_of_transformers_5_24(temperature: float, penalty: float, p: float) -> None:
    """Two-sample chi-square over the best sequences, and over whole pools."""
    assert Version(transformers.__version__) >= Version("5.24"), "the rules of earlier versions differ"
    expected = transformers_pools(temperature, penalty, p)
    strategy = BeamSample(width=2, temperature=temperature, length_penalty=penalty, p=p)
    pools = [tuple(sampled(strategy, i)) for i in range(RUNS)]
    assert alike(expected, pools) > 1e-3
    assert alike([best for best, _ in expected], [pool[0] for pool in pools]) > 1e-3


def test_the_order_of_the_draw_is_another_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test distinguishes the rule of transformers 5.23, which differs only in the order of the candidates."""
    def in_the_order_of_the_draw(self: Drawn, scores: torch.Tensor, count: int) -> torch.Tensor:
        return torch.multinomial(scores.softmax(-1), count, generator=draws)

    draws = torch.Generator().manual_seed(2)
    monkeypatch.setattr(Drawn, "chosen", in_the_order_of_the_draw)
    pools = [tuple(sampled(BeamSample(width=2), i)) for i in range(RUNS)]
    assert alike(transformers_pools(1.0, 1.0, 1.0), pools) < 1e-6


def test_the_nucleus_is_that_of_the_distribution_at_its_temperature() -> None:
    """As many tokens as hold .8 when log p is halved, one more than before; what is summed is not normalised again."""
    log_p = torch.tensor([[2.0, 1.5, 1.0, 0.0, -1.0, -3.0]]).log_softmax(-1)
    found = BeamSample(temperature=2.0, p=0.8).front(chain_request()).scored(log_p)
    assert found.isfinite().tolist() == [[True] * 4 + [False] * 2]
    assert torch.allclose(found[0, :4], log_p[0, :4] / 2)


def alike(one: Sequence[tuple[object, ...]], other: Sequence[tuple[object, ...]]) -> float:
    """Compute the p-value that two samples have one distribution; rare outcomes are pooled."""
    a, b = Counter(one), Counter(other)
    common = [x for x in a | b if a[x] + b[x] >= 20]
    rows = [[n[x] for x in common] + [RUNS - sum(n[x] for x in common)] for n in (a, b)]
    kept = [pair for pair in zip(*rows, strict=True) if sum(pair)]
    assert len(kept) > 8
    return float(chi2_contingency(list(zip(*kept, strict=True))).pvalue)


def test_it_does_not_sample_the_model_distribution() -> None:
    """With more beams likely sequences are more frequent than under the model, as the docstring warns."""
    runs, shares = scaled(400, 800), []
    best = max(table()[()].tolist())
    for width in (1, 4):
        strategy = BeamSample(width=width, length_penalty=0.0)
        shares.append(sum(table()[()][sampled(strategy, i)[0][0]] == best for i in range(runs)) / runs)
    assert shares[1] > shares[0] + 0.1


def test_one_beam_is_plain_sampling() -> None:
    runs = scaled(1000, 3000)
    seen = Counter(sampled(BeamSample(width=1, temperature=0.8), i)[0][0] for i in range(runs))
    expected = runs * (table()[()].double() / 0.8).softmax(-1)
    assert expected.min() > 5
    assert chisquare([seen[token] for token in range(VOCAB)], expected.tolist()).pvalue > 1e-3


def test_drawn_without_replacement_and_the_best_live_on() -> None:
    for i in range(200):
        front = Drawn(2, divisor("none", 0.0), "never", chain_request(stream=PhiloxStream(i)))
        front.advance(TABLE[0][None].log(), torch.empty(0))
        assert len({h.tokens for h in [*front.live, *front.pool]}) == len(front.live) + len(front.pool)
        assert [h.score for h in front.live] == sorted((h.score for h in front.live), reverse=True)
        run_on_table(front)
        assert front.pool


def test_a_small_nucleus_and_no_temperature_are_greedy() -> None:
    for prompt in prompts(3, 97, 2):
        greedy = decode(Greedy(), target(), prompt, new=15)
        assert decode(BeamSample(width=3, p=0.0), target(), prompt, new=15) == greedy
        assert decode(BeamSample(width=1, temperature=0.0), target(), prompt, new=15) == greedy
        assert decode(StochasticBeam(width=1, temperature=0.01), target(), prompt, new=15) == greedy


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "opt"])
def test_without_temperature_it_is_beam_search(arch: str) -> None:
    for prompt in prompts(2, 97, 3):
        assert decode(BeamSample(width=3, temperature=0.0), target(arch), prompt, new=15) == \
            decode(Beam(width=3), target(arch), prompt, new=15)


SEARCHES: list[Search] = [
    Beam(width=3, length_rule="gnmt", length_penalty=0.6), Beam(width=3, finished="kept"), BeamSample(width=3),
    DiverseBeam(width=4, distance="cumulative"), DiverseBeam(width=4, distance="ngram"), StochasticBeam(width=3),
    UidBeam(width=3, regulariser="variance"), UidBeam(width=3)]


@pytest.mark.parametrize("strategy", SEARCHES, ids=lambda s: s.spec())
@torch.inference_mode()
@pytest.mark.slow  # tests/law runs every strategy so at its defaults
def test_texts_side_by_side_get_the_tokens_they_have_alone(strategy: Search) -> None:
    jobs = [partial(decode, strategy, target(), prompt, new=10) for prompt in prompts(scaled(5, 7), 97, 5)]
    alone = [job() for job in jobs]
    assert run_batched([target()], jobs, 3) == alone
    assert run_batched([target()], jobs, 16) == alone


@pytest.mark.parametrize("strategy", SEARCHES, ids=lambda s: s.spec())
def test_scores_are_what_the_model_says_of_the_text(strategy: Search) -> None:
    """`log_p` of each result equals that of one forward over the whole sequence, token for token."""
    for prompt in prompts(2, 97, 6):
        request = Request(tuple(prompt), 10, PhiloxStream(1), frozenset({EOS}))
        for h in strategy.search(Session(target()), request):
            with torch.inference_mode():
                logits = target().model(torch.tensor([[*prompt, *h.tokens]])).logits[0].float().log_softmax(-1)
            log_p = logits[len(prompt) - 1:-1].gather(1, torch.tensor(h.tokens)[:, None]).sum()
            assert h.log_p == pytest.approx(float(log_p), abs=1e-3)
            if isinstance(strategy, Beam):
                assert h.score == pytest.approx(h.log_p, abs=1e-4)


@pytest.mark.parametrize("strategy", SEARCHES, ids=lambda s: s.spec())
def test_a_constant_added_to_the_logits_changes_nothing(strategy: Search) -> None:
    prompt = prompts(1, 97, 7)[0]
    expected = decode(strategy, target(), prompt, new=10)
    session = Session(target())
    request = Request(tuple(prompt), 10, PhiloxStream(0, *prompt, 0), frozenset({EOS}))
    with session.with_logit_warp(lambda logits, texts: logits + 16):
        assert list(next(iter(strategy.generate(session, request)))) == expected


def test_samples_are_independent_searches() -> None:
    prompt = prompts(1, 97, 8)[0]
    texts = {tuple(decode(BeamSample(width=2), target(), prompt, new=10, sample=i)) for i in range(6)}
    assert len(texts) > 3
    assert BeamSample().max_samples() is None
