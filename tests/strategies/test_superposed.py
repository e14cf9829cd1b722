"""Superposed decoding: mixtures are read exactly, drafts are those of the published rules, one draft is greedy."""

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache, partial
from math import exp, inf, log
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from harness.plugins.strategy import Request
from strategies.drafters.store import Store
from strategies.greedy import Greedy
from strategies.parts.corpus import WEIGHTS, followed
from strategies.superposed import Draft, Mixed, Superposed, mixture
from tests.decode import decode, engine, traced
from tests.models import ARCHS, EOS, prompts, tiny_model
from tests.scale import scaled


class Bag(nn.Module):
    """A linear model: logits are a matrix times the embedding of the last token, and a bias for the place."""

    def __init__(self, vocab: int = 8, seed: int = 0) -> None:
        super().__init__()
        text = SimpleNamespace(num_hidden_layers=0, layer_types=None, vocab_size=vocab)
        self.config = SimpleNamespace(get_text_config=lambda: text, is_encoder_decoder=False)
        self.device, self.dtype = torch.device("cpu"), torch.float32
        generator = torch.Generator().manual_seed(seed)
        self.embedding = nn.Embedding(vocab, 5, _weight=torch.randn(vocab, 5, generator=generator))
        self.decoder, self.matrix = _Body(), 0.5 * torch.randn(vocab, 5, generator=generator)

    def get_decoder(self) -> nn.Module:
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def forward(self, input_ids: Tensor, position_ids: Tensor, logits_to_keep: int, **_: object) -> Any:
        vectors = self.decoder(self.embedding(input_ids)).last_hidden_state
        return SimpleNamespace(logits=self.said(vectors, position_ids)[:, -logits_to_keep:])

    def said(self, vectors: Tensor, places: Tensor) -> Tensor:
        """(…, V) logits after embeddings (…, D) at `places` (…)."""
        return vectors @ self.matrix.T + 0.1 * (places[..., None] * torch.arange(1.0, 1 + len(self.matrix))).sin()


class _Body(nn.Module):
    def forward(self, vectors: Tensor) -> Any:
        return SimpleNamespace(last_hidden_state=vectors)


@cache
def target(arch: str) -> Engine:
    return engine(tiny_model(arch))


def read(over: Engine, prompt: list[int], token: int, plan: Mixed | None) -> Tensor:
    """(V,) after `prompt` and one more token."""
    session = Session(over)
    session.follow(prompt)
    session.read()
    session.follow([*prompt, token])
    logits = session.read(hook=plan).logits[0]
    session.close()
    return logits


@torch.inference_mode()
def test_a_linear_model_says_the_mixture_of_what_it_says() -> None:
    bag = Engine(Bag(), 64)
    plan = Mixed((2, 5, 6), (0.5, 0.3, 0.2))
    single = [read(bag, [1, 3], token, None) for token in plan.tokens]
    expected = sum(weight * logits for weight, logits in zip(plan.weights, single, strict=True))
    assert torch.allclose(read(bag, [1, 3], 0, plan), torch.as_tensor(expected), atol=1e-6)


@pytest.mark.parametrize("arch", ARCHS)
@torch.inference_mode()
def test_a_mixture_of_one_token_is_that_token(arch: str) -> None:
    prompt = prompts(1, 97, 1)[0]
    exact = read(target(arch), prompt, 7, None)
    assert torch.equal(read(target(arch), prompt, 7, Mixed((7,), (1.0,))), exact)
    assert torch.allclose(read(target(arch), prompt, 9, Mixed((7, 7), (0.25, 0.75))), exact, atol=1e-4)
    assert not torch.allclose(read(target(arch), prompt, 7, Mixed((7, 9), (0.5, 0.5))), exact, atol=1e-2)
    assert torch.equal(read(target(arch), prompt, 7, None), exact)  # the embedding is as it was


def test_shares_add_up_and_equal_tokens_are_one() -> None:
    drafts = [Draft((4, 9), -0.5), Draft((5, 8), -1.5), Draft((6, 9), -3.0)]
    weights = [exp(draft.score) for draft in drafts]
    assert mixture(drafts) == pytest.approx({9: (weights[0] + weights[2]) / sum(weights), 8: weights[1] / sum(weights)})
    assert mixture([Draft((1, 3), -900.0), Draft((2, 3), -1000.0)]) == {3: 1.0}
    assert sum(mixture([Draft((i,), -float(i * i)) for i in range(9)]).values()) == pytest.approx(1)


def store(vocab: int, texts: int = 30, length: int = 25) -> Store:
    rng = np.random.default_rng(3)
    return Store.of([rng.integers(0, vocab, length).tolist() for _ in range(texts)], vocab)


def share(known: Store, text: Sequence[int], token: int) -> float:
    """`followed` by its definition, on all n-grams of the corpus."""
    corpus, total = known.tokens.tolist(), 0.0
    for length, weight in enumerate(WEIGHTS[:len(text)], 1):
        tail = list(text[-length:])
        after = Counter(corpus[i + length] for i in range(len(corpus) - length)
                        if corpus[i:i + length] == tail and corpus[i + length] >= 0)
        total += weight * after[token] / after.total() if after else 0
    return total


def test_shares_of_a_corpus_are_counted() -> None:
    known, rng = store(5), np.random.default_rng(4)
    for _ in range(60):
        text, tokens = rng.integers(0, 5, rng.integers(1, 8)).tolist(), [3, 0, 4]
        assert followed(known, text, tokens).tolist() == pytest.approx([share(known, text, t) for t in tokens])
    assert followed(Store.of([[1, 2]], 5), [3], [1, 2]).tolist() == [0, 0]
    assert followed(Store.of([[1, 2]], 5), [2], [1, 2]).tolist() == [0, 0]


Said = Callable[[Sequence[Tensor]], Tensor]


def oracle(s: Superposed, prompt: list[int], new: int, vectors: Tensor, said: Said, known: Store | None,
           eos: int | None) -> list[tuple[int, ...]]:
    """The published rules to the letter, without a cache; `said` reads embedding vectors (D,) and gives logits (V,)."""
    history = [vectors[token] for token in prompt]
    live, pool = [((), 0.0)], list[tuple[tuple[int, ...], float]]()
    for _ in range(new):
        logits = (said(history) / s.temperature).double()
        kept = sorted(range(len(logits)), key=lambda t: (-float(logits[t]), t))[:s.m or 3 * s.k]
        log_p = dict(zip(kept, (logits[kept]).log_softmax(-1).tolist(), strict=True))
        grown = []
        for i, (tokens, score) in enumerate(live):
            gain = log_p
            if known is not None:
                q = {t: share(known, [*prompt, *tokens], t) for t in kept}
                told = {t: (1 - s.alpha) * log_p[t] + s.alpha * log(q[t]) if q[t] else -inf for t in kept}
                gain = told if max(told.values()) > -inf else {t: (1 - s.alpha) * log_p[t] - 200 for t in kept}
            grown += [(-score - gain[t], i, t) for t in kept if gain[t] > -inf]
        best = [((*live[i][0], t), -score) for score, i, t in sorted(grown)[:2 * s.k]]
        pool = sorted([*pool, *(d for d in best if d[0][-1] == eos)], key=lambda d: -d[1])[:s.k]
        live = [d for d in best if d[0][-1] != eos][:s.k]
        gamma = torch.tensor([score for _, score in live], dtype=torch.float64).softmax(0).float()
        history.append(gamma @ vectors[[tokens[-1] for tokens, _ in live]])
    return [tokens for tokens, _ in sorted([*live, *pool], key=lambda d: exp(-d[1] / len(d[0])))[:s.k]]


def drafts(s: Superposed, over: Engine, prompt: list[int], new: int, eos: int | None) -> list[tuple[int, ...]]:
    session = Session(over)
    ends = frozenset() if eos is None else frozenset({eos})
    found = s.search(session, Request(tuple(prompt), new, PhiloxStream(0), ends))
    session.close()
    assert session.work.forwards == max(len(draft.tokens) for draft in found) or eos is not None
    return [draft.tokens for draft in found]


@pytest.mark.parametrize("eos", [None, 2])
@torch.inference_mode()
def test_drafts_are_those_of_the_rules(eos: int | None, tmp_path: Path) -> None:
    """On linear models, where what comes next depends on the last embedding alone; ending early changes nothing."""
    known = store(8, texts=2, length=7)  # it knows few of the tokens that may follow
    known.save(tmp_path / "store.npz")
    for seed in range(36):
        bag = Bag(seed=seed)
        named, heat = str(tmp_path / "store.npz") if seed % 2 else "none", (0.06, 0.5, 1.0)[seed % 3]
        k = 1 + seed // 2 % 4
        s = Superposed(k=k, m=2 * k if seed % 2 else 8, temperature=heat, store=named)

        def said(history: Sequence[Tensor], bag: Bag = bag) -> Tensor:
            return bag.said(history[-1], torch.tensor(len(history) - 1))
        expected = oracle(s, [seed % 8, 3], 9, bag.embedding.weight, said, known if seed % 2 else None, eos)
        assert drafts(s, Engine(bag, 64), [seed % 8, 3], 9, eos) == expected, seed


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "opt"])
@torch.inference_mode()
def test_the_cache_holds_what_mixtures_wrote(arch: str) -> None:
    model = target(arch).model

    def said(history: Sequence[Tensor]) -> Tensor:
        return model(inputs_embeds=torch.stack(list(history))[None]).logits[0, -1]
    for prompt in prompts(3, 97, 1):
        for s in (Superposed(temperature=0.5), Superposed(k=2, m=4, temperature=1.0)):
            expected = oracle(s, prompt, 12, model.get_input_embeddings().weight, said, None, EOS)
            assert drafts(s, target(arch), prompt, 12, EOS) == expected


@pytest.mark.parametrize("arch", ["llama", "qwen2", "gpt2", "opt"])
def test_one_draft_is_greedy(arch: str) -> None:
    for prompt in prompts(4, 97, 1):
        expected = decode(Greedy(), target(arch), prompt, eos=None)
        assert decode(Superposed(k=1), target(arch), prompt, eos=None) == expected


def test_one_forward_a_token_and_a_sample_a_draft() -> None:
    prompt, s = prompts(1, 97, 1)[0], Superposed(k=4)
    work = traced(s, target("llama"), prompt, new=12, eos=None)[1]
    assert (work.forwards, work.positions) == (12, len(prompt) + 11)
    found = drafts(s, target("llama"), prompt, 12, None)
    assert len(set(found)) == s.max_samples() == 4
    assert [tuple(decode(s, target("llama"), prompt, new=12, eos=None, sample=i)) for i in range(4)] == found


def test_no_weight_for_n_grams_is_no_store(tmp_path: Path) -> None:
    store(97).save(tmp_path / "store.npz")
    for prompt in prompts(3, 97, 2):
        found = drafts(Superposed(alpha=0, store=str(tmp_path / "store.npz")), target("llama"), prompt, 10, EOS)
        assert found == drafts(Superposed(), target("llama"), prompt, 10, EOS)


@torch.inference_mode()
def test_texts_side_by_side_get_the_tokens_they_have_alone() -> None:
    strategy = Superposed(temperature=0.5)
    jobs = [partial(decode, strategy, target("llama"), prompt, new=12) for prompt in prompts(scaled(5, 7), 97, 5)]
    alone = [job() for job in jobs]
    for most in (3, 16):
        assert run_batched([target("llama")], jobs, most) == alone


def test_what_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give m=9 or 0"):
        Superposed(m=5)
    store(8).save(tmp_path / "store.npz")
    with pytest.raises(Unsupported, match="the datastore is 8"):
        drafts(Superposed(store=str(tmp_path / "store.npz")), target("llama"), [5], 3, None)
