"""Samplers keep the tokens of their papers, as transformers does, and have the expected degenerate settings."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.generation import logits_process as library

from harness.engine import logit_warps as warps
from harness.engine.engine import Engine
from harness.engine.logit_warps import Warp
from harness.engine.random_stream import PhiloxStream
from harness.plugins.strategy import Strategy
from strategies.epsilon import Epsilon
from strategies.eta import Eta
from strategies.greedy import Greedy
from strategies.min_p import MinP
from strategies.mirostat import Mirostat, Steered, size, zipf
from strategies.temperature import Temperature
from strategies.top_h import TopH
from strategies.top_k import TopK
from strategies.top_nsigma import TopNSigma
from strategies.top_p import TopP
from strategies.typical import Typical
from tests.decode import decode, engine
from tests.models import tiny_model
from tests.scale import scaled

D1 = torch.tensor([[2.0, 1.5, 1.0, 0.0, -1.0, -3.0]])


def kept(law: Warp, logits: Tensor) -> list[set[int]]:
    """Return the kept tokens of each row; their logits must be unchanged."""
    out = law(logits, [()] * len(logits))
    assert torch.equal(out[out.isfinite()], logits[out.isfinite()])
    return [set(row.isfinite().nonzero()[:, 0].tolist()) for row in out]


@pytest.mark.parametrize(("law", "tokens"), [
    (warps.top_k(3), 3), (warps.top_p(0.5), 2), (warps.top_p(0.8), 3), (warps.top_p(0.9), 3), (warps.min_p(0.1), 4),
    (warps.min_p(0.3), 3), (warps.typical(0.5), 3), (warps.typical(0.9), 3), (warps.epsilon(0.05), 4),
    (warps.epsilon(0.2), 2), (warps.eta(0.05), 4), (warps.eta(0.3), 3), (warps.top_h(0.4), 1), (warps.top_h(0.7), 2),
    (warps.top_nsigma(0.5), 2), (warps.top_nsigma(1), 3), (warps.top_nsigma(1.5), 4)])
def test_golden_sets(law: Warp, tokens: int) -> None:
    assert kept(law, D1) == [set(range(tokens))]


def test_typical_may_leave_out_the_likeliest() -> None:
    assert kept(warps.typical(0.2), D1) == [{1}]


@pytest.mark.parametrize("missing", [0, 10], ids=["all known", "some impossible"])
@pytest.mark.parametrize(("law", "theirs"), [
    (warps.top_k(7), library.TopKLogitsWarper(7)), (warps.top_p(0.8), library.TopPLogitsWarper(0.8)),
    (warps.min_p(0.08), library.MinPLogitsWarper(0.08)), (warps.typical(0.7), library.TypicalLogitsWarper(0.7)),
    (warps.epsilon(0.01), library.EpsilonLogitsWarper(0.01)), (warps.eta(0.02), library.EtaLogitsWarper(0.02)),
    (warps.top_h(0.45), library.TopHLogitsWarper(0.45))], ids=lambda each: type(each).__name__)
def test_the_same_tokens_as_transformers(law: Warp, theirs: Callable[..., Tensor], missing: int) -> None:
    logits = 3 * torch.randn(200, 150, generator=torch.Generator().manual_seed(5))
    logits[:, :missing] = -math.inf
    expected = theirs(torch.zeros(200, 1, dtype=torch.long), logits.clone())
    assert kept(law, logits) == [set(row.isfinite().nonzero()[:, 0].tolist()) for row in expected]


def test_the_kept_set_of_top_nsigma_does_not_depend_on_temperature() -> None:
    logits = 4 * torch.randn(50, 97, generator=torch.Generator().manual_seed(1))
    for heat in (0.5, 2.0, 10.0):
        assert kept(warps.top_nsigma(1.0), logits / heat) == kept(warps.top_nsigma(1.0), logits)
    masked = logits.clone()
    masked[:, 3] = -math.inf  # counts neither as a token nor in the deviation
    assert kept(warps.top_nsigma(1.0), masked)[0] == {
        token + (token >= 3) for token in kept(warps.top_nsigma(1.0), logits[:, torch.arange(97) != 3])[0]}


def test_equal_tokens_are_kept_by_their_id() -> None:
    logits = torch.tensor([[0.4, 0.2, 0.2, 0.2]]).log()
    assert kept(warps.top_k(2), logits) == kept(warps.top_p(0.55), logits) == [{0, 1}]


@pytest.fixture(scope="module")
def target() -> Engine:
    return engine(tiny_model("llama"))


@pytest.mark.parametrize("strategy", [
    Temperature(temperature=0), TopK(k=1), MinP(share=1), Epsilon(least=1), TopNSigma(n=0), TopH(share=0),
    TopP(p=0), Typical(mass=0.5, temperature=0)], ids=lambda s: s.spec())
def test_the_end_of_a_knob_is_greedy(strategy: Strategy, target: Engine) -> None:
    assert decode(strategy, target, [5, 6, 7]) == decode(Greedy(), target, [5, 6, 7])


@pytest.mark.parametrize("strategy", [
    TopK(k=1000), TopP(p=1), MinP(share=0), Epsilon(least=0), Eta(least=0), Typical(mass=1), TopNSigma(n=100)],
    ids=lambda s: s.spec())
def test_the_other_end_is_the_distribution_of_the_model(strategy: Strategy, target: Engine) -> None:
    for sample in range(scaled(2, 4)):
        assert decode(strategy, target, [5, 6, 7], sample=sample) == decode(Temperature(), target, [5, 6, 7],
                                                                           sample=sample)


def test_zipf_is_recovered_and_its_size_counted() -> None:
    ranks = torch.arange(1, 2001, dtype=torch.float64)
    for exponent in (0.7, 1.0, 1.4):
        probs = ranks**-exponent / (ranks**-exponent).sum()
        assert zipf(-probs.log()[:101]) == pytest.approx(exponent)
        wide = [size(exponent, mu, 2000) for mu in (-40.0, 2.0, 4.0, 6.0, 8.0, 40.0, 5000.0)]
        assert wide == sorted(wide)
        assert (wide[0], wide[-1]) == (1, 2000)
    assert size(zipf(torch.full((101,), math.log(2000))), 1.0, 2000) == 2000  # all equal: nothing to cut by


@pytest.mark.parametrize("wanted", [3.0, 5.0])  # the likeliest token alone has 2.5 bits
def test_mirostat_holds_its_surprise(wanted: float) -> None:
    ranks = torch.arange(1, 2001, dtype=torch.float64)
    law: Any = -1.1 * ranks.log()
    logits, stream, steered = law[None].float(), PhiloxStream("mirostat"), Steered(Mirostat(target=wanted))
    surprise, text = -torch.log_softmax(law, -1) / math.log(2), [0]
    for _ in range(500):
        text.append(stream.choose(torch.softmax(steered.warp(logits, [text])[0].double(), -1)))
    assert float(surprise[text[1:]].mean()) == pytest.approx(wanted, abs=0.3)


def test_mirostat_starts_every_text_anew(target: Engine) -> None:
    first = decode(Mirostat(), target, [5, 6, 7], sample=1)
    decode(Mirostat(), target, [8, 9], sample=2)
    assert decode(Mirostat(), target, [5, 6, 7], sample=1) == first


def test_mirostat_of_no_surprise_ends_as_greedy(target: Engine) -> None:
    written = decode(Mirostat(target=0), target, [5, 6, 7], eos=None)
    assert len(written) == 30
    assert written[10:] == decode(Greedy(), target, [5, 6, 7, *written[:10]], new=20, eos=None)
