"""Draft models of other vocabularies: identities, greedy tokens, distributions, batches and limits."""

from functools import cache, partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.session import Session, Work
from harness.errors import Unsupported
from harness.models.translation import ids_of, split, token_texts
from harness.plugins.registry import STRATEGIES
from strategies.greedy import Greedy
from strategies.speculative import Speculative
from strategies.tli import Tli
from strategies.uag import TextChain
from tests import pair, vocabularies
from tests.chances import MASS, TEMPERATURE, VOCAB, PValue
from tests.chances import target as small_target
from tests.decode import decode, traced
from tests.models import MAX_POSITIONS, PAD_BIAS, tiny_model
from tests.scale import scaled
from tests.vocabularies import model_of, translated

NAMES = ["tli", "uag"]
EXACT = [("tli", 0.0), ("tli", 1.0), ("uag", 0.0)]  # where each is speculative, draw for draw


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


@pytest.mark.parametrize(("name", "temperature"), EXACT)
def test_the_same_vocabulary_is_plain_speculation(name: str, temperature: float) -> None:
    target, draft, _ = renumbered()
    accepted = drafted = 0
    for prompt in texts():
        runs = [traced(strategy, target, prompt, draft=draft, new=24, eos=None) for strategy in (
            made(name, f"gamma=3,temperature={temperature}"), Speculative(gamma=3, temperature=temperature))]
        assert runs[0] == runs[1]
        accepted, drafted = accepted + runs[0][1].accepted, drafted + runs[0][1].drafted
    assert 0 < accepted < drafted


@pytest.mark.parametrize(("name", "temperature"), EXACT)
def test_other_numbers_of_the_same_tokens_change_nothing(name: str, temperature: float) -> None:
    """Tokens, drafts and forwards are those of a draft model that needs no translation."""
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


class Says:
    """A draft model that writes given tokens, one a forward, and keeps what it read."""

    def __init__(self, tokens: list[int], max_len: int = MAX_POSITIONS) -> None:
        self.engine, self.tokens, self.read_tokens = SimpleNamespace(max_len=max_len), list(tokens), list[list[int]]()

    def follow(self, tokens: list[int]) -> None:
        self.read_tokens.append(list(tokens))

    def read(self) -> SimpleNamespace:
        return SimpleNamespace(best=[self.tokens[len(self.read_tokens) - 1]])


def drafted(number: int, prompt: str, says: str, gamma: int = 8, ends: bool = False) -> tuple[list[int], Says, Any]:
    """The draft below `prompt` of a draft model that writes `says` after it, and then EOS if it `ends`."""
    translation = trained(number)[1].translation
    assert translation
    tokens = split(says.encode(), ids_of(token_texts(translation.draft), len(translation.draft)))
    model = Says([*tokens, *[translation.draft.eos_token_id] * ends, *[5] * gamma])
    chain = TextChain(cast(Session, model), translation, gamma)
    size = len(tokens) + ends
    tree = chain.draft(translation.target(prompt)["input_ids"], cast(Step, None), 20 if gamma > size else gamma)
    return list(tree.tokens), model, translation


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize(("prompt", "says"), [("The smallest", " cat sat"), ("The small", "est cat"), ("A cat ", "sat"),
                                              ("A café", ", naïve: 12 😀 mice")])
def test_the_draft_is_the_text_in_tokens_of_the_target(number: int, prompt: str, says: str) -> None:
    """Blanks at its start, words that go on, and characters of several tokens; EOS is the target's."""
    tokens, model, translation = drafted(number, prompt, says, 40, ends=True)
    assert tokens[-1] == translation.target.eos_token_id
    assert b"".join(translation.texts[token] for token in tokens[:-1]).decode() == says
    assert all(read[0] == translation.draft.bos_token_id for read in model.read_tokens), "BOS is passed on, or added"
    assert model.read_tokens[-1][-1] != translation.draft.eos_token_id, "nothing is read after EOS"


@pytest.mark.parametrize("number", [0, 1])
def test_a_draft_that_ends_within_a_character_loses_its_end(number: int) -> None:
    for gamma in range(1, 6):
        tokens, _, translation = drafted(number, "The cat", " 😀", gamma)
        text = b"".join(translation.texts[token] for token in tokens).decode()
        assert " 😀".startswith(text)
    assert text == " 😀"


def test_a_sequence_that_ends_within_a_character_is_not_drafted_for() -> None:
    translation = trained(0)[1].translation
    assert translation
    model, prompt = Says([5] * 9), translation.target("a 😀")["input_ids"][:-1]
    tree = TextChain(cast(Session, model), translation, 4).draft(prompt, cast(Step, None), 9)
    assert not tree.tokens
    assert not model.read_tokens


def test_uag_writes_the_same_text_from_few_tokens_in_common() -> None:
    """Tokens that only the target has are drafted, which tli never does."""
    tokens, _, translation = drafted(1, "The", " smallest mice")
    assert set(tokens) - set(translation.pairs)
