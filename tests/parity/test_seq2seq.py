"""Encoder-decoder models answer as transformers' `generate` lets them, token for token in float32."""

from functools import partial
from typing import Any

import pytest
import torch

from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.forced import Forced
from harness.models.encoder_decoder import make_engine
from strategies.beam import Beam
from strategies.greedy import Greedy
from strategies.prompt_lookup import PromptLookup
from strategies.speculative import Speculative
from strategies.top_p import TopP
from tests.models import prompts
from tests.scale import scaled
from tests.seq2seq import ARCHS, EOS, LONGEST, PAD, decode, engine, tiny, traced

NEW = 16
SOURCES = [[*prompt, EOS] for prompt in prompts(scaled(4, 12), 97, 1)]
FORCED: dict[str, Any] = {"forced_bos_token_id": 7, "forced_eos_token_id": EOS}


def generated(target: Engine, source: list[int], **options: Any) -> list[int]:
    """Return the answer of `generate`, without the start token and the padding behind EOS."""
    out: list[int] = target.model.generate(torch.tensor([source]), max_new_tokens=NEW, do_sample=False, **options
                                           )[0, 1:].tolist()
    return out[:out.index(EOS) + 1] if EOS in out else out


def forcing(kind: str) -> Engine:
    """Return an engine over a model that forces the first and the last token."""
    model = tiny(kind)
    for name, value in FORCED.items():
        setattr(model.generation_config, name, value)
    target = make_engine(model, LONGEST)
    assert target.forced == Forced(7, EOS)
    return target


@pytest.mark.parametrize("kind", ARCHS)
def test_greedy_and_exact_drafts(kind: str) -> None:
    target, some = engine(kind), set[tuple[int, ...]]()
    for source in SOURCES:
        expected = generated(target, source)
        some.add(tuple(expected))
        assert decode(Greedy(), target, source, new=NEW) == expected
        assert decode(PromptLookup(), target, source, new=NEW) == expected
        for seed in (0, 1):
            answer = traced(Speculative(gamma=3), target, source, draft=engine(kind, seed), new=NEW)
            assert answer.tokens == expected
            assert sum(answer.steps.accepted) == sum(answer.steps.drafted) if not seed else True
    assert len(some) > 2


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("kind", ARCHS)
def test_beams(kind: str, penalty: float) -> None:
    target, strategy = engine(kind), Beam(width=3, length_penalty=penalty)
    for source in SOURCES[:2]:
        assert decode(strategy, target, source, new=NEW) == generated(target, source, num_beams=3,
                                                                      length_penalty=penalty)


@pytest.mark.parametrize("kind", ARCHS)
def test_forced_tokens(kind: str) -> None:
    """The first token is given, and so is the last one where nothing ended before the limit: also under drafts."""
    target = forcing(kind)
    for source in SOURCES[:2]:
        expected = generated(target, source)
        assert expected[0] == 7
        assert expected[-1] == EOS
        for strategy in (Greedy(), PromptLookup(), Speculative(gamma=3)):
            assert decode(strategy, target, source, draft=engine(kind, 1), new=NEW) == expected
        for penalty in (0.0, 1.0, 2.0):
            assert decode(Beam(width=3, length_penalty=penalty), target, source, new=NEW) == generated(
                target, source, num_beams=3, length_penalty=penalty)


@pytest.mark.parametrize("kind", ARCHS)
def test_an_end_is_found_in_new_tokens_only(kind: str) -> None:
    """BART starts with its EOS, T5 and Marian with padding, which may end an answer as well."""
    target = engine(kind)
    assert any(len(decode(Greedy(), target, source, new=NEW, eos=target.prefix[0])) > 1 for source in SOURCES)
    assert target.prefix == ((EOS,) if kind == "bart" else (PAD,))


@pytest.mark.parametrize("kind", ARCHS)
@torch.inference_mode()
def test_side_by_side_is_alone(kind: str) -> None:
    target, draft = engine(kind), engine(kind, 1)
    for strategy in (Greedy(), Speculative(gamma=3), Beam(width=3), TopP(temperature=1.0)):
        jobs = [partial(decode, strategy, target, source, draft=draft, new=NEW) for source in SOURCES * 2]
        alone = [job() for job in jobs]
        assert run_batched([target, draft], jobs, 32) == alone
        assert target.open_rows == draft.open_rows == 0


def test_samples_have_the_distribution_of_the_model() -> None:
    """The first token of many samples, against its exact probabilities."""
    target, source = engine("t5", vocab=12), [3, 7, 5, EOS]
    ids = torch.tensor([source])
    with torch.inference_mode():
        logits = target.model(input_ids=ids, decoder_input_ids=torch.tensor([target.prefix])).logits
    exact = logits[0, -1].softmax(-1)
    draws = scaled(300, 2000)
    firsts = [decode(TopP(temperature=1.0), target, source, new=1, sample=i, eos=None)[0] for i in range(draws)]
    seen = torch.bincount(torch.tensor(firsts), minlength=12) / draws
    assert float((seen - exact).abs().sum()) < 4 * (12 / draws) ** 0.5
    assert float((seen - 1 / 12).abs().sum()) > 4 * (12 / draws) ** 0.5  # an even distribution would not pass
