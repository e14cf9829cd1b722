"""Draft models of other vocabularies: identities, greedy tokens, distributions, batches and limits."""

from functools import cache, partial
from typing import Any

import pytest
import torch

from harness.decoding.verified import Verified
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.session import Work
from harness.errors import Unsupported
from harness.plugins.registry import STRATEGIES
from strategies.greedy import Greedy
from strategies.speculative import Speculative
from strategies.tli import Tli
from tests import pair, vocabularies
from tests.chances import MASS, TEMPERATURE, VOCAB, PValue
from tests.chances import target as small_target
from tests.decode import decode, traced
from tests.models import MAX_POSITIONS, PAD_BIAS, tiny_model
from tests.scale import scaled
from tests.vocabularies import model_of, translated

NAMES = ["tli"]


def made(name: str, knobs: str) -> Verified:
    strategy = STRATEGIES.build(f"{name}:{knobs}")
    assert isinstance(strategy, Verified)
    return strategy


def ascii_model(seed: int) -> Any:
    """A model of one token a byte that writes letters, digits and signs alone, and seldom ends."""
    model, words = tiny_model("llama", vocab=pair.VOCAB, seed=seed), pair.tokenizer()
    with torch.no_grad():
        for token, number in words.get_vocab().items():
            if not (token == "Ġ" or (len(token) == 1 and token.isascii())):
                model.lm_head.weight[number] = 0.0
                model.lm_head.weight[number, 0] = 2 * PAD_BIAS
    return model


@cache
def renumbered() -> tuple[Engine, Engine, Engine]:
    """A target, a draft model of the same vocabulary, and the same draft model with other numbers of tokens."""
    order = [int(i) for i in torch.randperm(pair.VOCAB, generator=torch.Generator().manual_seed(3))]
    target, draft = Engine(ascii_model(0), MAX_POSITIONS), ascii_model(0)
    noise = torch.randn(draft.lm_head.weight.shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        draft.lm_head.weight += 0.15 * noise  # agrees with the target now and then
    other = vocabularies.with_numbers(draft, order)
    translated(target, other, pair.tokenizer(), vocabularies.renumbered(pair.tokenizer(), order))
    return target, Engine(draft, MAX_POSITIONS), other


def texts(count: int = 3) -> list[list[int]]:
    return [pair.tokenizer()(text)["input_ids"] for text in (" a small cat.", "12 mice, 3 cats", "The end")[:count]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_vocabulary_is_plain_speculation(name: str, temperature: float) -> None:
    if name == "uag" and temperature:
        pytest.skip("uag keeps no probabilities")
    target, draft, _ = renumbered()
    accepted = drafted = 0
    for prompt in texts():
        runs = [traced(strategy, target, prompt, draft=draft, new=24, eos=None) for strategy in (
            made(name, f"gamma=3,temperature={temperature}"), Speculative(gamma=3, temperature=temperature))]
        assert runs[0] == runs[1]
        accepted, drafted = accepted + runs[0][1].accepted, drafted + runs[0][1].drafted
    assert 0 < accepted < drafted


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_other_numbers_of_the_same_tokens_change_nothing(name: str, temperature: float) -> None:
    """Tokens, drafts and forwards are those of a draft model that needs no translation."""
    if name == "uag" and temperature:
        pytest.skip("uag keeps no probabilities")
    target, draft, other = renumbered()
    for prompt in texts():
        plain = traced(Speculative(gamma=3, temperature=temperature), target, prompt, draft=draft, new=24, eos=None)
        found = traced(made(name, f"gamma=3,temperature={temperature}"), target, prompt, draft=other, new=24, eos=None)
        assert found == plain


@cache
def trained(number: int) -> tuple[Engine, Engine, Any]:
    """A target, a draft model of another trained vocabulary, and the tokenizer of the target."""
    words = [vocabularies.byte_level(), vocabularies.with_blanks()]
    own, other = words if number == 0 else words[::-1]
    target = model_of(own, padding=3)
    return target, translated(target, model_of(other, 1), own, other), own


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_tokens_of_trained_vocabularies_are_those_of_greedy(name: str, number: int) -> None:
    """A random model writes parts of characters and special tokens too."""
    target, draft, words = trained(number)
    for text in ("A small cat", " The café: 12", "😀"):
        prompt, strategy = words(text)["input_ids"], made(name, "gamma=3")
        tokens, work, drafting = traced(strategy, target, prompt, draft=draft, new=24, eos=None)
        assert tokens == decode(Greedy(), target, prompt, new=24, eos=None)
        assert work.drafted
        assert drafting.forwards


@pytest.mark.parametrize("name", NAMES)
@torch.inference_mode()
def test_drafts_in_a_batch_are_those_of_each_alone(name: str) -> None:
    target, draft, words = trained(0)

    def job(text: str) -> tuple[list[int], Work, Work]:
        return traced(made(name, "gamma=2"), target, words(text)["input_ids"], draft=draft, new=scaled(8, 16), eos=None)
    jobs = [partial(job, text) for text in ("A", "The smallest cat", "café", "12 mice sat on the mat")]
    alone = [go() for go in jobs]
    assert run_batched([target, draft], jobs) == alone


@cache
def few_in_common() -> Engine:
    """A draft model of the small target, which writes a to f, that lacks b and e and has x and y."""
    model = tiny_model("llama", vocab=VOCAB, seed=1, sharpness=0.8, layers=2)
    return translated(small_target(), Engine(model, MAX_POSITIONS), vocabularies.letters("abcdef"),
                      vocabularies.letters("xfcday"))


@pytest.mark.parametrize("name", NAMES)
def test_the_distribution_is_preserved_with_few_tokens_in_common(name: str, p_value: PValue) -> None:
    strategy = made(name, f"gamma=2,temperature={TEMPERATURE},p={MASS}")
    assert p_value(strategy, few_in_common) > 1e-3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("over", ["repetition_penalty:penalty=1.5", "no_repeat_ngram:n=2", "frequency_penalty"])
def test_a_penalty_counts_tokens_of_the_target(name: str, over: str) -> None:
    """As for plain decoding; for tli the draft model's distribution is bent by the target's tokens too."""
    target, draft, other = renumbered()
    for prompt in texts(2):
        plain, found = (decode(STRATEGIES.build(f"{one}+{over}"), target, prompt, draft=other, new=20, eos=None)
                        for one in ("greedy", f"{name}:gamma=3"))
        assert found == plain
        if name == "tli":
            counts = [traced(STRATEGIES.build(f"{one}:gamma=3,temperature=0.9+{over}"), target, prompt, draft=small,
                             new=20, eos=None) for one, small in (("tli", other), ("speculative", draft))]
            assert counts[0] == counts[1]



@pytest.mark.parametrize("name", NAMES)
def test_a_draft_model_whose_context_is_full_drafts_nothing(name: str) -> None:
    """The text may have more tokens for the draft model than for the target."""
    target, draft, words = trained(1)
    short = Engine(draft.model, 24)
    short.translation = draft.translation
    prompt = words("The smallest cat sat on the mat ↗")["input_ids"]
    tokens, work, _ = traced(made(name, "gamma=3"), target, prompt, draft=short, new=16, eos=None)
    assert tokens == decode(Greedy(), target, prompt, new=16, eos=None)
    assert work.drafted < 3 * 15


def test_models_without_a_common_token_are_refused() -> None:
    target = small_target()
    draft = translated(target, Engine(tiny_model("llama", vocab=VOCAB), MAX_POSITIONS), vocabularies.letters("abcdef"),
                       vocabularies.letters("uvwxyz"))
    with pytest.raises(Unsupported, match="tokens in common"):
        decode(Tli(), target, [3, 4], draft=draft)
