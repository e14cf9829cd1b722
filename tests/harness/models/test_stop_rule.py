"""Where answers end, and what a trace writes down, with a scripted clock."""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from random import Random
from typing import Any, ClassVar

import pytest
import tokenizers
import torch
from tokenizers import Tokenizer, decoders, normalizers
from transformers import PreTrainedTokenizerFast
from transformers.generation.stopping_criteria import StopStringCriteria

from harness.backends.trace import Trace, trace
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.models.loading import load
from harness.models.stop_rule import Cut, StopRule
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Guarantee, Request, Strategy
from tests.decode import engine
from tests.markov import Markov
from tests.models import EOS, tiny_model
from tests.pair import tokenizer

WORDS = tokenizer()
PROMPT = WORDS("What is it?")["input_ids"]
BLOCKS: list[str] = []


def ids(text: str) -> list[int]:
    found: list[int] = WORDS(text)["input_ids"]
    return found


@dataclass(frozen=True)
class Scripted(Strategy):
    """Yields BLOCKS, whatever the model says; `$` stands for EOS."""

    paper: ClassVar[str] = "none"
    family: ClassVar[str] = "test"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[Sequence[int]]:
        for block in BLOCKS:
            yield [token for letter in block for token in ([EOS] if letter == "$" else ids(letter))]


def run(blocks: list[str], stops: Sequence[str] = (), most: int = 50) -> tuple[Trace, StopRule]:
    BLOCKS[:] = blocks
    ticks = iter(range(1000))
    rule = StopRule(WORDS, PROMPT, frozenset({EOS}), stops)
    session = Session(engine(tiny_model("llama")))
    request = Request(tuple(PROMPT), most, PhiloxStream(0), frozenset({EOS}))
    return trace(Scripted(), session, request, rule, lambda: float(next(ticks))), rule


def test_eos_in_a_block_drops_what_follows() -> None:
    done, rule = run(["ab", "cd$ef", "gh"])
    assert (rule.text(done.tokens), done.stop, done.steps.tokens) == ("abcd", "eos", [2, 3])
    assert done.steps.seconds == [1.0, 1.0]


def test_a_stop_string_across_two_blocks() -> None:
    done, rule = run(["one t", "wo three", "four"], stops=("two",))
    raw = rule.text(done.tokens)
    assert (raw, rule.before_stop(raw), done.stop, done.steps.tokens) == ("one two", "one ", "stop", [5, 2])


def test_the_first_of_eos_and_stop_string_counts() -> None:
    assert run(["ab$xx"], stops=("xx",))[0].stop == "eos"
    assert run(["abxx$"], stops=("xx",))[0].stop == "stop"


@pytest.mark.parametrize(("most", "stop", "kept"), [(3, "length", 3), (4, "eos", 4), (5, "eos", 4)])
def test_the_token_limit(most: int, stop: str, kept: int) -> None:
    done, _ = run(["abc$"], most=most)
    assert (done.stop, len(done.tokens), done.steps.tokens) == (stop, kept, [kept])


def test_a_strategy_that_ends_by_itself() -> None:
    done, _ = run(["abc"])
    assert (done.stop, done.steps.tokens) == ("ended", [3])
    assert run([])[0].tokens == []


def test_text_keeps_the_space_after_the_prompt() -> None:
    _, rule = run([])
    assert rule.text(ids(" yes")) == " yes"
    assert rule.text(ids("né ☃")) == "né ☃"


def test_stopped_looks_at_the_end_only() -> None:
    _, rule = run([], stops=("Q:",))
    assert rule.stopped(ids("A long answer.\nQ:"))
    assert not rule.stopped(ids("A long answer."))
    assert not StopRule(WORDS, PROMPT, frozenset(), ()).stopped(ids("Q:"))


SCRIPTS = ["🦜🦜🦜", "ᚠᛇᚻ", "გამარჯობა", "конец", "समाप्त", "끝났다", "e\u0301", "\n\n", " the", "the", "<|im_end|>",
           "</s>", "<|im_end|>\n", "of <|im_end|>"]


@cache
def nano_tokenizer() -> Any:
    """nano's tokenizer, byte-level, with the special tokens of a chat."""
    made = copy(load("nano").tokenizer)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    return made


@cache
def llama_tokenizer() -> Any:
    """A tokenizer with the decoder of Llama's: bytes for rare characters, and no space before the first word."""
    pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    words = ["▁", "▁the", "▁of", "the", *"abcdefghijklmnopqrstuvwxyz", "▁a", "th", "nd"]
    vocab = {piece: number for number, piece in enumerate(["<unk>", "<s>", "</s>", *pieces, *words])}
    made = Tokenizer(tokenizers.models.BPE(vocab=vocab, merges=[("t", "h")], unk_token="<unk>", byte_fallback=True))
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                      decoders.Strip(" ", 1, 0)])
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>",
                                   additional_special_tokens=["<|im_end|>"])


def defined(rule: StopRule, tokens: list[int]) -> int | None:
    """The definition: the first number of tokens whose whole text contains a stop string."""
    return next((count for count in range(1, len(tokens) + 1)
                 if any(stop in rule.text(tokens[:count], special=True) for stop in rule.stops)), None)


@pytest.mark.parametrize("step", [1, 3, 50])
@pytest.mark.parametrize("stop", SCRIPTS)
@pytest.mark.parametrize("kind", [nano_tokenizer, llama_tokenizer])
def test_every_strategy_stops_at_the_same_token(kind: Callable[[], Any], stop: str, step: int) -> None:
    """However many tokens a step has, the answer ends with the first one that completes the stop string."""
    words = kind()
    prompt = words("tell of the end")["input_ids"]
    for before in ("", "x", "end of ", "a bird 🦜🦜 and ", stop[:-1]):
        rule = StopRule(words, prompt, frozenset({words.eos_token_id}), (stop,))
        tokens = words(f"{before}{stop} and so on {stop}", add_special_tokens=False)["input_ids"]
        first = next((i for i, token in enumerate(tokens) if token == words.eos_token_id), len(tokens))
        wanted, done = defined(rule, tokens[:first]), None
        for end in range(step, len(tokens) + step, step):
            new = len(tokens[:end]) - (end - step)
            done = done or rule.cut(tokens[:end], new)
        if wanted is None:
            assert done == (Cut(first + 1, "eos") if first < len(tokens) else None)
        else:
            assert done == Cut(wanted, "stop")
            assert [rule.stopped(tokens[:count]) for count in range(1, wanted + 1)] == [False] * (wanted - 1) + [True]
            before = rule.text(tokens[:wanted], special=True).partition(stop)[0]
            assert rule.answer(tokens[:wanted]) == before.replace("<|im_end|>", "")


@pytest.mark.parametrize("kind", [nano_tokenizer, llama_tokenizer])
def test_stops_in_random_tokens(kind: Callable[[], Any]) -> None:
    """Tokens that are parts of characters, special tokens, and stop strings taken from the text itself."""
    words, random = kind(), Random(1)
    size = len(words)
    for _ in range(300):
        tokens = [random.randrange(3, size) for _ in range(40)]
        prompt = [random.randrange(3, size) for _ in range(6)]
        text = StopRule(words, prompt, frozenset(), ()).text(tokens, special=True)
        at = random.randrange(len(text))
        stops = tuple(filter(None, (text[at:at + random.randrange(1, 9)].replace("\ufffd", ""), "🦜")))
        rule = StopRule(words, prompt, frozenset(), stops)
        whole, single = rule.cut(tokens, len(tokens)), None
        for count in range(1, len(tokens) + 1):
            single = single or rule.cut(tokens[:count], 1)
        assert whole == single
        assert (whole and whole.kept) == defined(rule, tokens)


def test_stops_and_roles_of_chatml_are_those_of_generate() -> None:
    """EOS is another token, so only the stop string ends the turn; no role gets into the text."""
    words = nano_tokenizer()
    rule = StopRule(words, words("<|im_start|>user\nHi<|im_end|>\n")["input_ids"], frozenset({1}), ("<|im_end|>",))
    tokens = words("Hello you<|im_end|>\n<|im_start|>user\nHi")["input_ids"]
    done = rule.cut(tokens, len(tokens))
    assert done == Cut(1 + tokens.index(words.convert_tokens_to_ids("<|im_end|>")), "stop")
    assert rule.answer(tokens[:done.kept]) == "Hello you"
    criteria = StopStringCriteria(words, ["<|im_end|>"])
    stopped = [bool(criteria(torch.tensor([tokens[:count]]), None)) for count in range(1, len(tokens))]
    assert 1 + stopped.index(True) == done.kept


@torch.inference_mode()
@pytest.mark.parametrize("name", ["greedy", "prompt_lookup", "suffix_automaton", "lookahead", "jacobi", "beam"])
def test_strategies_end_with_a_stop_string_of_many_bytes(name: str) -> None:
    """A model that writes 🦜 for ever, a byte at a time."""
    parrot = ids("🦜")
    table = torch.full((len(WORDS), len(WORDS)), 1e-4)
    for one, after in zip(parrot, [*parrot[1:], parrot[0]], strict=True):
        table[one, after] = 1.0
    target, prompt = Engine(Markov(table), 256), ids("🦜🦜🦜🦜")
    rule = StopRule(WORDS, prompt, frozenset({EOS}), ("🦜🦜🦜",))
    request = Request(tuple(prompt), 40, PhiloxStream(0), frozenset({EOS}), stopped=rule.stopped)
    done = trace(STRATEGIES.build(name), Session(target), request, rule, lambda: 0.0)
    assert (rule.text(done.tokens), done.stop) == ("🦜🦜🦜", "stop")
