"""Token for token, in fp32, against `generate` of the installed transformers."""

from functools import cache
from itertools import product

import pytest
import torch

from harness.engine.engine import Engine
from strategies.beam import Beam
from strategies.greedy import Greedy
from strategies.prompt_lookup import PromptLookup
from strategies.speculative import Speculative
from tests.decode import decode, engine
from tests.models import ARCHS, EOS, PAD, prompts, tiny_model
from tests.scale import scaled

PROMPTS = prompts(scaled(3, 6), 97, 3)


@cache
def target(arch: str) -> Engine:
    return engine(tiny_model(arch))


@cache
def draft(arch: str) -> Engine:
    """The target with a little noise: it agrees often, not always."""
    model = tiny_model(arch)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for weight in model.parameters():
            weight += 0.05 * weight.std() * torch.randn(weight.shape, generator=generator) if weight.numel() > 1 else 0
    return engine(model)


def generate(arch: str, prompt: list[int], new: int = 30, **options: object) -> list[list[int]]:
    ids = torch.tensor([prompt])
    out = target(arch).model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False,
                                      pad_token_id=PAD, **options)
    rows = [row[len(prompt):].tolist() for row in out]
    return [row[:row.index(EOS) + 1] if EOS in row else row for row in rows]


@pytest.mark.parametrize("arch", ARCHS)
def test_greedy_is_generate(arch: str) -> None:
    for prompt in PROMPTS:
        assert decode(Greedy(), target(arch), prompt) == generate(arch, prompt)[0]


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("gamma", [1, 4, 7])
def test_speculative_is_greedy(arch: str, gamma: int) -> None:
    for prompt in PROMPTS:
        expected = decode(Greedy(), target(arch), prompt)
        assert decode(Speculative(gamma=gamma), target(arch), prompt, draft=draft(arch)) == expected


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("latest", [False, True])
def test_prompt_lookup_is_greedy(arch: str, latest: bool) -> None:
    strategy = PromptLookup(max_ngram=2, length=4, latest=latest)
    for prompt in PROMPTS:
        again = prompt * 3
        assert decode(strategy, target(arch), again, new=60) == decode(Greedy(), target(arch), again, new=60)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("width", [1, 3, pytest.param(5, marks=pytest.mark.slow)])
def test_beam_is_generate(arch: str, width: int) -> None:
    for penalty, stopping in product((2.0, -1.0, 0.0, 1.0)[:scaled(2, 4)], ("false", "true", "never")):
        strategy = Beam(width=width, length_penalty=penalty, early_stopping=stopping)
        hf = {"false": False, "true": True}.get(stopping, stopping)
        for prompt in PROMPTS[:scaled(1, 2)]:
            if width == 1:  # transformers routes one beam to greedy search
                expected = generate(arch, prompt)
            else:
                expected = generate(arch, prompt, num_beams=width, length_penalty=penalty, early_stopping=hf,
                                    num_return_sequences=width)
            samples = width if prompt == PROMPTS[0] else 1
            got = [decode(strategy, target(arch), prompt, sample=i) for i in range(samples)]
            assert got == expected[:len(got)], (penalty, stopping, prompt)
