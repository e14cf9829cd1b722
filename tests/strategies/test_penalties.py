"""Penalties warp logits as transformers and vLLM do, over any other strategy."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.generation import logits_process as library

from harness.decoding import penalty
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.logit_warps import identity
from harness.errors import UserError
from harness.plugins.registry import STRATEGIES
from strategies.repetition_penalty import RepetitionPenalty
from tests.decode import decode, engine
from tests.models import EOS, PAD, prompts, tiny_model
from tests.scale import scaled

ARCHS = ("llama", "gpt2")  # a penalty sees no positions
INNER = ("greedy", "beam:width=3", "top_p:p=0.9", "momentum", "speculative", "speculative:temperature=1",
         "contrastive_search", "fsd", "fsd_vec", "prompt_lookup")
PENALTIES = ("repetition_penalty", "frequency_penalty:presence=0.5,frequency=0.5", "no_repeat_ngram:n=2",
             "dry:multiplier=3,allowed=1")


@cache
def target(arch: str = "llama", seed: int = 0) -> Engine:
    return engine(tiny_model(arch, seed=seed, layers=2))


def run(spec: str, prompt: list[int], arch: str = "llama", **more: Any) -> list[int]:
    strategy = STRATEGIES.build(spec)
    return decode(strategy, target(arch), prompt, draft=target(arch, 1) if "draft" in strategy.needs else None, **more)


def rows(count: int, length: int, vocab: int, seed: int = 0) -> tuple[Tensor, list[list[int]]]:
    """Return random logits, some of them −∞, and random sequences with repeats."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, vocab, generator=generator)
    logits[torch.rand(count, vocab, generator=generator) < 0.1] = -math.inf
    return logits, torch.randint(0, vocab, (count, length), generator=generator).tolist()


@pytest.mark.parametrize("value", [0.7, 1.0, 1.2, 2.0])
def test_repetition_is_that_of_transformers(value: float) -> None:
    theirs = library.RepetitionPenaltyLogitsProcessor(value)
    for length in (1, 5, 60):
        logits, texts = rows(40, length, 30, length)
        assert torch.equal(penalty.repetition(value)(logits, texts), theirs(torch.tensor(texts), logits.clone()))
        ignoring = library.RepetitionPenaltyLogitsProcessor(value, prompt_ignore_length=length // 2)
        assert torch.equal(penalty.repetition(value, length // 2)(logits, texts),
                           ignoring(torch.tensor(texts), logits.clone()))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 6])
def test_no_repeat_is_that_of_transformers(size: int) -> None:
    theirs = library.NoRepeatNGramLogitsProcessor(size)
    for length in (1, 2, 4, 9, 60):
        logits, texts = rows(40, length, 5 if size > 1 else 100, length)
        expected = theirs(torch.tensor(texts), logits.clone())
        some = expected.isfinite().any(-1)
        found = penalty.no_repeat_ngram(size)(logits, texts)
        assert torch.equal(found[some], expected[some])
        assert torch.equal(found[~some], logits[~some])  # nothing would be left
        late = [text[length // 2:] for text in texts]
        assert torch.equal(penalty.no_repeat_ngram(size, length // 2)(logits, texts),
                           penalty.no_repeat_ngram(size)(logits, late))


def test_completing_is_its_definition() -> None:
    rng = np.random.default_rng(0)
    for _ in range(2000):
        text, size = rng.integers(0, 3, rng.integers(0, 12)).tolist(), int(rng.integers(1, 5))
        tail = text[len(text) - size + 1:] if size > 1 else []
        expected = [text[i + size - 1] for i in range(len(text) - size + 1) if text[i:i + size - 1] == tail]
        assert penalty.completing(text, size).tolist() == (expected if len(text) >= size - 1 else [])


def test_frequency_is_that_of_the_api() -> None:
    logits, texts = rows(30, 25, 12)
    found = penalty.frequency(0.7, 0.3, 10)(logits, texts)
    for row, text in enumerate(texts):
        counts = Counter(text[10:])
        expected = [float(logits[row, v]) - 0.3 * counts[v] - 0.7 * (counts[v] > 0) for v in range(12)]
        assert found[row].tolist() == pytest.approx(expected, abs=1e-5)
    assert torch.equal(penalty.frequency(0.7, 0.3, 25)(logits, texts), logits)


def test_tokens_that_the_output_layer_does_not_have_are_not_counted() -> None:
    logits = torch.ones(1, 4)
    assert penalty.repetition(2.0)(logits, [[9, 1]]).tolist() == [[1, 0.5, 1, 1]]


def test_ends_of_the_knobs() -> None:
    assert penalty.repetition(1) is penalty.frequency(0, 0, 3) is penalty.no_repeat_ngram(0) is identity
    with pytest.raises(UserError, match="at least"):
        RepetitionPenalty(penalty=0, over=STRATEGIES.build("greedy"))


@pytest.mark.parametrize("inner", INNER)
def test_a_penalty_of_nothing_is_the_other_strategy(inner: str) -> None:
    new = scaled(10, 16)
    for sample, prompt in enumerate(prompts(scaled(1, 2), 97, 2)):
        expected = run(inner, prompt, sample=sample, new=new)
        for outer in ("no_repeat_ngram:n=0+repetition_penalty:penalty=1", "no_repeat_ngram:n=64",
                      "frequency_penalty:presence=0,frequency=0", "dry:multiplier=0", "dry:allowed=64",
                      "thinking_budget:tokens=none", "thinking_budget"):
            assert run(f"{inner}+{outer}", prompt, sample=sample, new=new) == expected, outer


def by_hand(prompt: list[int], bend: Any, arch: str, new: int = 30) -> list[int]:
    """Greedy decoding with warped logits and a full forward over the sequence at every step."""
    text = list(prompt)
    while len(text) < len(prompt) + new and text[-1] != EOS:
        with torch.inference_mode():
            logits = target(arch).model(torch.tensor([text])).logits[0, -1:].float()
        text.append(int(bend(logits, [text]).argmax()))
    return text[len(prompt):]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("outer", PENALTIES)
def test_greedy_and_its_drafting_methods_choose_the_likeliest_warped_token(outer: str, arch: str) -> None:
    over, changed, new = STRATEGIES.build(outer), 0, scaled(20, 30)
    assert isinstance(over, penalty.Penalty)
    for prompt in prompts(scaled(2, 3), 97, 8):
        expected = by_hand(prompt * 2, over.warp(2 * len(prompt)), arch, new)
        for inner in ("greedy", "speculative:gamma=3", "prompt_lookup", "lookahead", "beam:width=1", "momentum:k=1",
                      "top_p:temperature=0"):
            assert run(f"{inner}+{outer}", prompt * 2, arch, new=new) == expected, inner
        changed += expected != run("greedy", prompt * 2, arch, new=new)
    assert changed  # the penalty was put to the test


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("spec", "options"), [
    ("repetition_penalty:penalty=1.3", {"repetition_penalty": 1.3}),
    ("no_repeat_ngram:n=2", {"no_repeat_ngram_size": 2})])
def test_greedy_is_generate(arch: str, spec: str, options: dict[str, float]) -> None:
    for prompt in prompts(scaled(2, 4), 97, 3):
        ids = torch.tensor([prompt])
        out = target(arch).model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=30, do_sample=False,
                                          pad_token_id=PAD, **options)[0, len(prompt):].tolist()
        assert run(spec, prompt) == run(f"greedy+{spec}", prompt)
        assert run(spec, prompt, arch) == (out[:out.index(EOS) + 1] if EOS in out else out)


class Processor(library.LogitsProcessor):
    """A warp as `generate` takes it."""

    def __init__(self, warp: Any) -> None:
        self.warp = warp

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the warped scores."""
        return self.warp(scores, input_ids.tolist())


def beams(prompt: list[int], arch: str, **options: Any) -> list[int]:
    """What `generate` makes with four beams."""
    ids = torch.tensor([prompt])
    out = target(arch).model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20, do_sample=False,
                                      num_beams=4, pad_token_id=PAD, **options)[0, len(prompt):].tolist()
    return out[:out.index(EOS) + 1] if EOS in out else out


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("size", [2, 3])
def test_beams_without_repeats_are_those_of_generate_that_renormalizes(arch: str, size: int) -> None:
    option, differ = {"no_repeat_ngram_size": size}, 0
    for prompt in prompts(scaled(6, 12), 97, 8):
        found = run(f"beam:width=4+no_repeat_ngram:n={size}", prompt * 2, arch, new=20)
        assert found == beams(prompt * 2, arch, renormalize_logits=True, **option)
        differ += found != beams(prompt * 2, arch, **option)
    assert differ or size > 2, "without it, the default, they are others"


def test_beams_with_penalties_score_the_changed_logits() -> None:
    differ = 0
    for prompt in prompts(scaled(3, 8), 97, 8):
        taken = Processor(penalty.frequency(0.5, 0.5, 2 * len(prompt)))
        assert run("beam:width=4+frequency_penalty:presence=0.5,frequency=0.5", prompt * 2, new=20) == \
            beams(prompt * 2, "llama", renormalize_logits=True, logits_processor=library.LogitsProcessorList([taken]))
        found = run("beam:width=4+repetition_penalty:penalty=1.3", prompt * 2, new=20)
        differ += found != beams(prompt * 2, "llama", repetition_penalty=1.3, renormalize_logits=True)
    assert differ, "transformers multiplies log p of beams, not their logits"


def grams(text: Sequence[int], size: int) -> list[tuple[int, ...]]:
    return [tuple(text[i:i + size]) for i in range(len(text) - size + 1)]


@pytest.mark.parametrize("inner", INNER)
def test_no_bigram_comes_twice(inner: str) -> None:
    new = scaled(18, 40)
    for prompt in prompts(scaled(1, 2), 97, 8):
        text = run(f"{inner}+no_repeat_ngram:n=2,prompt=false", prompt, new=new, eos=None)
        assert len(set(grams(text, 2))) == new - 1
        whole = [*prompt, *run(f"{inner}+no_repeat_ngram:n=2", prompt, new=new, eos=None)]
        assert all(times <= max(1, grams(prompt, 2).count(pair)) for pair, times in Counter(grams(whole, 2)).items())


def test_penalties_add_up() -> None:
    prompt = prompts(1, 97, 4)[0] * 2
    both = [penalty.repetition(1.2), penalty.no_repeat_ngram(2)]
    expected = by_hand(prompt, lambda logits, texts: both[1](both[0](logits, texts), texts), "llama")
    assert run("speculative+repetition_penalty+no_repeat_ngram:n=2", prompt) == expected


@pytest.mark.parametrize("spec", [f"{inner}+{outer}" for inner, outer in zip(
    ("greedy", "speculative", "beam", "top_p", "contrastive_search", "momentum", "fsd", "prompt_lookup"), PENALTIES * 2,
    strict=True)])
@torch.inference_mode()
@pytest.mark.slow  # tests/law runs every strategy so at its defaults
def test_texts_side_by_side_get_the_tokens_they_have_alone(spec: str) -> None:
    jobs = [partial(run, spec, prompt * 2, new=10) for prompt in prompts(scaled(5, 7), 97, 5)]
    alone = [job() for job in jobs]
    for most in (3, 16):
        assert run_batched([target(), target(seed=1)], jobs, most) == alone
