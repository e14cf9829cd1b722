"""Models that carry a state answer as transformers' `generate` lets them, token for token in float32."""

import pytest
import torch

from strategies.beam import Beam
from strategies.greedy import Greedy
from strategies.jacobi import Jacobi
from strategies.prompt_lookup import PromptLookup
from strategies.speculative import Speculative
from strategies.top_p import TopP
from tests.decode import decode
from tests.decode import engine as wrapped
from tests.models import prompts, tiny_model
from tests.recurrent import engine, tiny
from tests.scale import scaled

NEW = 16
TEXTS = [prompt * 2 for prompt in prompts(scaled(3, 10), 97, 1)]
KINDS = ("Mamba", "Mamba2", "Rwkv", "GraniteMoeHybrid", "Jamba", "Qwen3Next")


def generated(name: str, text: list[int], **options: object) -> list[int]:
    """Return the answer of `generate` with EOS."""
    model = tiny(name)
    model.generation_config.eos_token_id = model.generation_config.pad_token_id = 2
    out: list[int] = model.generate(torch.tensor([text]), max_new_tokens=NEW, do_sample=False, **options
                                    )[0, len(text):].tolist()
    return out[:out.index(2) + 1] if 2 in out else out


@pytest.mark.parametrize("name", KINDS)
def test_greedy_and_exact_drafts(name: str) -> None:
    target = engine(name)
    for text in TEXTS:
        expected = generated(name, text)
        for strategy in (Greedy(), PromptLookup(), Jacobi()):
            assert decode(strategy, target, text, new=NEW) == expected
        for draft in (engine(name, 0), engine(name, 1), engine("Mamba2", 1), wrapped(tiny_model("llama"))):
            assert decode(Speculative(gamma=3), target, text, draft=draft, new=NEW) == expected


@pytest.mark.parametrize("name", ["Mamba2", "GraniteMoeHybrid"])
def test_beams(name: str) -> None:
    for text in TEXTS[:2]:
        assert decode(Beam(width=3, length_penalty=1.0), engine(name), text, new=NEW) == generated(
            name, text, num_beams=3, length_penalty=1.0)


def test_an_attention_model_with_a_recurrent_draft() -> None:
    target = wrapped(tiny_model("llama"))
    for text in TEXTS:
        expected = decode(Greedy(), target, text, new=NEW)
        assert decode(Speculative(gamma=3), target, text, draft=engine("Mamba2"), new=NEW) == expected


@torch.inference_mode()
def test_sampling_follows_the_model() -> None:
    target, text = engine("Mamba2"), TEXTS[0]
    exact = target.model(torch.tensor([text]), use_cache=False).logits[0, -1].softmax(-1)
    draws = scaled(300, 2000)
    firsts = [decode(TopP(temperature=1.0), target, text, new=1, sample=i, eos=None)[0] for i in range(draws)]
    seen = torch.bincount(torch.tensor(firsts), minlength=97) / draws
    assert float((seen - exact).abs().sum()) < 4 * (12 / draws) ** 0.5
    assert float((seen - 1 / 97).abs().sum()) > 4 * (12 / draws) ** 0.5  # an even distribution would not pass
