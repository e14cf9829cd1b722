"""SLED and DeLTa, which use the logits of many early layers: golden numbers, identities, each step from scratch."""

from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from math import inf

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.plugins.strategy import Strategy
from strategies.delta_layers import DeltaLayers, weights
from strategies.greedy import Greedy
from strategies.no_repeat_ngram import NoRepeatNgram
from strategies.sled import Sled, explained
from strategies.temperature import Temperature
from strategies.top_k import TopK
from tests.decode import decode, engine, traced
from tests.models import EOS, prompts, tiny_model
from tests.scale import scaled

ARCHS, LAYERS = ("llama", "qwen2", "gpt2", "opt"), 4
METHODS: list[Strategy] = [Sled(), Sled(alpha=9.0, k=20, temperature=1.0), DeltaLayers(), DeltaLayers(temperature=1.0)]


@cache
def target(arch: str) -> Engine:
    return engine(tiny_model(arch, layers=LAYERS))


@torch.inference_mode()
def layer_logits(engine: Engine, sequence: Sequence[int], norm: bool) -> list[Tensor]:
    """Return the logits (V,) of the embeddings and of each layer in float64, those of the last layer last."""
    out = engine.model(torch.tensor([list(sequence)]), output_hidden_states=True)
    states = [state[0, -1] for state in out.hidden_states[:-1]]
    exits = [engine.parts.head(engine.parts.norm(state) if norm else state) for state in states]
    return [logits.double() for logits in (*exits, out.logits[0, -1])]


def from_scratch(scores: Callable[[list[int]], Tensor], prompt: Sequence[int], new: int) -> list[int]:
    tokens = list(prompt)
    while len(tokens) < len(prompt) + new and tokens[-1] != EOS:
        tokens.append(int(scores(tokens).argmax()))
    return tokens[len(prompt):]


def naive_p(last: Tensor, exits: Sequence[Tensor], tokens: Sequence[int]) -> Tensor:
    """Return P (K,) layer by layer, each layer normalised and then weighted by its sum, with one vector a token."""
    squares = torch.zeros(len(exits), len(tokens), dtype=torch.float64)
    for n, early in enumerate(exits):
        for j, token in enumerate(tokens):
            gradient = early.double().softmax(-1)
            gradient[token] = 0
            gradient[token] = -gradient.sum()
            squares[n, j] = cosine_similarity(gradient, (early - last).double(), dim=0, eps=1e-30).clamp_min(0) ** 2
    sums = squares.sum(1)
    of_layers = squares / sums.clamp_min(1e-300)[:, None]
    return (sums / sums.sum()) @ of_layers


def test_the_numbers_of_sled() -> None:
    last, early = torch.tensor([2.0, 1.0, 0.0]), torch.tensor([[1.0, 1.5, 0.0]])
    assert Sled(k=3).scores(last, early).tolist() == pytest.approx([2.66952, 0.51054, -0.18006], abs=1e-5)
    assert explained(last, early, torch.arange(3)).tolist() == [1, 0, 0]
    cosine = cosine_similarity(early.softmax(-1) - torch.tensor([[1.0, 0, 0]]), early - last)
    assert float(cosine) ** 2 == pytest.approx(0.93303, abs=1e-5)
    assert Sled(k=2).scores(last, early).tolist() == pytest.approx([2.66952, 0.51054, -inf], abs=1e-5)


@pytest.mark.parametrize(("scale", "lead"), [(0.5, 0.0), (5.0, 0.0), (2.0, 30.0)])
def test_the_latent_distribution_layer_by_layer(scale: float, lead: float) -> None:
    """Also where all layers are so sure of a token that 1 − softmax is 0 in float32."""
    generator = torch.Generator().manual_seed(7)
    for _ in range(20):
        last = scale * torch.randn(50, generator=generator)
        last[3] += lead
        exits = last + scale / 5 * torch.randn(6, 50, generator=generator)
        assert bool((exits.softmax(-1) == 1).any()) == (lead > 0)
        tokens = last.topk(10).indices
        p = explained(last, exits, tokens)
        assert torch.allclose(p.double(), naive_p(last, list(exits), tokens.tolist()), atol=1e-6)
        assert float(p.sum()) == pytest.approx(1)


def test_sled_without_an_explanation_only_lowers_the_likely() -> None:
    last = torch.tensor([1.0, 0.0, -1.0])
    assert explained(last, last[None], torch.arange(3)).tolist() == [0, 0, 0]
    assert torch.allclose(Sled(k=3).scores(last, last[None]), last - 2 * last.softmax(-1))


def test_the_numbers_of_delta() -> None:
    lines = torch.tensor([[1.0, 4.0], [2.0, 3.5]]), torch.tensor([3.0, 3.2])
    for ahead, expected in ((0.0, (3, 3.1667)), (0.5, (3.5, 2.9667)), (2.0, (5, 2.3667))):
        points = torch.cat([lines[0], lines[1][None]])
        assert (torch.tensor(weights(3, ahead)) @ points).tolist() == pytest.approx(expected, abs=1e-4)
        scores = DeltaLayers(ahead=ahead, alpha=0.0).scores(lines[1], lines[0])
        assert float(scores[0] - scores[1]) == pytest.approx(expected[0] - expected[1], abs=1e-4)
    assert int(DeltaLayers(ahead=0.5).scores(lines[1], lines[0]).argmax()) == 0, "extrapolation turns the order"
    assert DeltaLayers(ahead=2.0).scores(lines[1], lines[0]).tolist()[1] == -inf, "below a tenth of the highest"
    assert weights(2, 0.0) == [0, 1]


@pytest.mark.parametrize("arch", ARCHS)
def test_greedy_and_plain_sampling_where_nothing_is_changed(arch: str) -> None:
    for sample, prompt in enumerate(prompts(2, 97, 6)):
        expected = decode(Greedy(), target(arch), prompt, new=15)
        for method in (Sled(alpha=0.0), Sled(k=1), DeltaLayers(layers=2, ahead=0.0)):
            assert decode(method, target(arch), prompt, new=15) == expected, method.spec()
        for method, same in ((Sled(alpha=0.0, k=5, temperature=1.0), TopK(k=5)),
                             (DeltaLayers(layers=2, ahead=0.0, alpha=0.0, temperature=0.8), Temperature(0.8))):
            found = decode(method, target(arch), prompt, new=10, sample=sample)
            assert found == decode(same, target(arch), prompt, new=10, sample=sample), method.spec()


@pytest.mark.parametrize("which", ["all", "low", "high"])
def test_sled_again_from_scratch(which: str) -> None:
    changed = 0
    for i, prompt in enumerate(prompts(scaled(8, 48), 97, 20)):
        arch, norm = ARCHS[i % 4], bool(i // 4 % 2)
        first = 0 if arch == "llama" else 2  # the others have tied weights
        layers = {"all": range(first, 4), "low": range(0, 2, 2) if first == 0 else [2], "high": range(2, 4, 2)}[which]

        def scores(sequence: list[int]) -> Tensor:
            *early, last = layer_logits(target(arch), sequence, norm)  # noqa: B023
            tokens = last.topk(6).indices.tolist()
            p = naive_p(last, [early[layer] for layer in layers], tokens)  # noqa: B023
            found = torch.full_like(last, -inf)
            found[tokens] = last[tokens] - 8 * (last.softmax(-1)[tokens] - p)
            return found
        expected = from_scratch(scores, prompt, 3)
        assert decode(Sled(alpha=8.0, k=6, layers=which, norm=norm), target(arch), prompt, new=3) == expected
        changed += decode(Greedy(), target(arch), prompt, new=3) != expected
    assert changed > scaled(2, 12)


def test_delta_again_from_scratch() -> None:
    """By the least squares of torch."""
    changed = 0
    for i, prompt in enumerate(prompts(scaled(9, 48), 97, 21)):
        arch, count, ahead = ARCHS[i % 4], (2, 3, 9)[i % 3], (0.0, 1.0, 2.5)[i // 3 % 3]
        used = min(count, 4 if arch == "llama" else 3)  # with tied weights, layer 1 is left out

        def scores(sequence: list[int]) -> Tensor:
            logits = torch.stack(layer_logits(target(arch), sequence, True)[-used:])  # noqa: B023
            places = torch.stack([torch.arange(used), torch.ones(used)], 1).double()  # noqa: B023
            slope, start = torch.linalg.lstsq(places, logits).solution
            return slope * (used - 1 + ahead) + start  # noqa: B023
        expected = from_scratch(scores, prompt, 3)
        assert decode(DeltaLayers(layers=count, ahead=ahead), target(arch), prompt, new=3) == expected
        changed += decode(Greedy(), target(arch), prompt, new=3) != expected
    assert changed > scaled(2, 12)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.spec())
def test_impossible_tokens_stay_impossible(method: Sled | DeltaLayers) -> None:
    generator = torch.Generator().manual_seed(5)
    last, exits = torch.randn(30, generator=generator), torch.randn(3, 30, generator=generator)
    last[:25] = -inf
    scores = method.scores(last, exits)
    assert not scores.isnan().any()
    assert (scores[:25] == -inf).all()
    assert scores.max() > -inf
    free = explained(last, exits, last.topk(10).indices)
    assert float(free[5:].sum()) == 0
    assert float(free.sum()) == pytest.approx(1)


def test_a_penalty_over_them_holds() -> None:
    for method in (Sled(), DeltaLayers()):
        for prompt in prompts(3, 97, 8):
            tokens = prompt + decode(NoRepeatNgram(n=2, over=method), target("llama"), prompt, new=30, eos=None)
            pairs = list(pairwise(tokens[len(prompt) - 1:]))
            assert len(set(pairs)) == len(pairs)


def test_a_token_costs_one_forward() -> None:
    prompt = prompts(1, 97, 6)[0]
    for method in METHODS:
        work = traced(method, target("llama"), prompt, new=10, eos=None)[1]
        assert (work.forwards, work.positions) == (10, len(prompt) + 9), method.spec()


@torch.inference_mode()
def test_a_batch_has_the_tokens_of_each_alone() -> None:
    """Each sequence has early exits of its own, also where prompts of several lengths share a forward."""
    jobs = [partial(decode, method, target("llama"), prompt, new=8) for prompt in prompts(6, 97, 9)
            for method in METHODS[1:3]]
    assert run_batched([target("llama")], jobs, 16) == [job() for job in jobs]
