"""DRY: goldens, brute force over all repeats, breakers in the text, and its law under drafts."""

from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import torch

from harness.decoding import penalty
from harness.engine.logit_warps import identity
from harness.errors import Unsupported, UserError
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, RequestText
from strategies.dry import Dry
from strategies.greedy import Greedy
from strategies.parts.phrases import Breakers, from_file, inline
from tests import chances
from tests.chances import chi_square, draft, drawn, target
from tests.scale import scaled


def taken(tokens: Sequence[int], allowed: int = 2, multiplier: float = 0.8, base: float = 1.75, last: int = 0,
          breakers: Breakers | None = None) -> dict[int, float]:
    """What each token loses."""
    logits = torch.zeros(1, 200, dtype=torch.float64)
    warped = penalty.dry(multiplier, base, allowed, last, breakers)(logits, [tokens])[0]
    return {int(token): -float(warped[token]) for token in warped.nonzero()[:, 0]}


@pytest.mark.parametrize(("text", "allowed", "expected"), [
    ("abccbcyabc", 2, {"c": 1.4, "y": 0.8}), ("abccbcyabc", 1, {"c": 2.45, "b": 0.8, "y": 1.4}),
    ("abccbcyabc", 3, {"c": 0.8}), ("123" * 4, 2, {"1": 40.212061}), ("5" * 8, 2, {"5": 13.130469})])
def test_goldens(text: str, allowed: int, expected: dict[str, float]) -> None:
    found = taken([ord(letter) for letter in text], allowed)
    assert found == {ord(letter): pytest.approx(loss, abs=1e-6) for letter, loss in expected.items()}


def spelled(strings: Sequence[str], pieces: Sequence[str]) -> Breakers:
    return Breakers(strings, lambda tokens: "".join(pieces[token] for token in tokens))


@pytest.mark.parametrize(("breaker", "loss"), [(2, None), (1, None), (9, 0.8), (5, 0.8)])
def test_a_breaker_caps_the_repeat(breaker: int, loss: float | None) -> None:
    text, pieces = [1, 2, 7, 9, 1, 2], [str(number) for number in range(10)]
    assert taken(text, breakers=spelled([str(breaker)], pieces)) == ({} if loss is None else {7: loss})


def test_a_token_with_a_breaker_is_spared_and_caps() -> None:
    pieces = ["a", "b", "c:\n", "d"]
    assert taken([0, 1, 2, 3, 0, 1]) == {2: 0.8}
    assert taken([0, 1, 2, 3, 0, 1], breakers=spelled([":"], pieces)) == {}
    assert taken([0, 1, 2, 3, 0, 1], breakers=spelled(["x"], pieces)) == {2: 0.8}


@pytest.mark.parametrize(("tokens", "after"), [
    ([1, 1, 0], 3), ([2, 3, 0, 1], 2), ([2, 1, 3, 0], 4), ([2], 1), ([2, 3], 0), ([4, 1], 1), ([4, 1, 2, 3, 0], 1),
    ([], 0)])
def test_breakers_are_found_across_tokens(tokens: list[int], after: int) -> None:
    breakers = spelled(["</s>"], ["a", "x", "b</", "s>", "a</s>"])
    assert breakers.after(tokens) == after
    assert [breakers.spares(token) for token in range(5)] == [False, False, False, False, True]


def brute(text: Sequence[int], limit: int) -> dict[int, int]:
    """The definition: compare what ends before every token with the end of the text."""
    found = dict[int, int]()
    for place in range(len(text) - 1):
        length = 0
        while length <= place and text[place - length] == text[-1 - length]:
            length += 1
        if length:
            found[text[place + 1]] = max(found.get(text[place + 1], 0), min(length, limit))
    return found


def test_repeats_are_those_of_brute_force() -> None:
    random = Random(0)
    for _ in range(1000):
        text = random.choices(range(3), k=random.randrange(20))
        limit = random.randrange(1, 12)
        assert penalty.repeats(text, limit) == brute(text, limit)


def test_breakers_are_those_of_brute_force() -> None:
    random, pieces = Random(1), ["a", "b", "ab", "ca", "c", ""]
    for _ in range(1000):
        strings = ["".join(random.choices("abc", k=random.randrange(1, 4))) for _ in range(random.randrange(1, 3))]
        text = random.choices(range(6), k=random.randrange(12))
        ends = [0]
        for token in text:
            ends.append(ends[-1] + len(pieces[token]))
        whole, expected = "".join(pieces[token] for token in text), len(text)
        for head in reversed(range(len(text))):  # the last token in which a breaker begins
            over = [begin + len(string) for begin in range(ends[head], ends[head + 1]) for string in strings
                    if whole.startswith(string, begin)]
            if over:
                expected = len(text) - next(i for i in range(len(ends)) if ends[i] >= max(over))
                break
        assert spelled(strings, pieces).after(text) == expected, (strings, text)


def test_only_the_last_tokens_are_searched() -> None:
    assert taken([1, 2, 9, 5, 1, 2], last=6) == {9: 0.8}
    assert taken([1, 2, 9, 5, 1, 2], last=5) == {}


def test_the_power_stays_finite() -> None:
    logits = torch.zeros(1, 4)
    for multiplier in (0.8, 1e9):
        warped = penalty.dry(multiplier, 100.0, 1)(logits, [[1] * 300])
        assert warped.isfinite().all()
        assert float(warped[0, 1]) < -1e37
    masked = penalty.dry(0.8, 1.75, 1)(torch.tensor([[0.0, -torch.inf]]), [[1, 1]])
    assert masked.tolist() == [[0.0, -torch.inf]]


@pytest.mark.parametrize("size", [2, 3, 4])
def test_an_endless_penalty_forbids_what_no_repeat_forbids(size: int) -> None:
    random = Random(size)
    for _ in range(200):
        text, logits = random.choices(range(5), k=30), torch.zeros(1, 9)  # 4 tokens are always allowed
        dry = penalty.dry(1e9, 1.0, size - 1)(logits, [text])
        forbidden = penalty.no_repeat_ngram(size)(logits, [text])
        assert torch.equal(dry < -1e8, forbidden.isinf())


def test_neutral_settings() -> None:
    assert penalty.dry(0, 1.75, 2) is identity
    assert taken([1, 2, 9, 1, 2], allowed=3) == {}
    assert taken([1, 2, 1, 2, 1], base=1.0) == {2: 0.8}


def request(spell: str) -> Request:
    text = RequestText("", lambda text: [], lambda text: [], lambda tokens: "", lambda text: None,
                       spelled=lambda tokens: spell * len(tokens))
    return Request((1, 2), 5, None, text=text)  # type: ignore[arg-type]


def test_the_breakers_come_from_the_text_of_the_request() -> None:
    logits, texts = torch.zeros(1, 5), [[1, 2, 3, 1, 2]]
    for piece, loss in ((" word", 0.8), ('said:"', 0.0), ("\n", 0.0)):
        assert float(Dry(over=Greedy()).request_warp(request(piece))(logits, texts)[0, 3]) == pytest.approx(-loss)
        free = Dry(over=Greedy(), breakers=None).request_warp(request(piece))
        assert float(free(logits, texts)[0, 3]) == pytest.approx(-0.8)


def test_lists_of_strings(tmp_path: Path) -> None:
    assert inline('\\n;:;";*') == ["\n", ":", '"', "*"]
    assert inline(r"a\;b;\x2c;\u00e9\s;;\\") == ["a;b", ",", "é ", "\\"]
    assert inline(None) == inline("") == []
    with pytest.raises(UserError, match="unknown: write"):
        Dry(over=Greedy(), breakers="\\q")
    with pytest.raises(UserError, match="cannot be read"):
        from_file("/nowhere/strings.txt")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(UserError, match="has no strings"):
        from_file(str(tmp_path / "empty"))


def test_an_engine_without_text_refuses_breakers() -> None:
    with pytest.raises(Unsupported, match="breakers=none"):
        STRATEGIES.build("dry").native(lambda strategy: None)
    assert STRATEGIES.build("top_p+dry:breakers=none").native(lambda strategy: None).warps


@torch.inference_mode()
def test_drafts_keep_the_law_of_sampling_with_the_penalty(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt = [3, 2, 3]  # what followed 3 is the likeliest token
    monkeypatch.setattr(chances, "PROMPT", prompt)
    strategy = STRATEGIES.build("speculative:gamma=2,temperature=1+dry:allowed=1,multiplier=2")
    warp = penalty.dry(2.0, 1.75, 1)
    sequences = drawn(strategy, target(), draft(), scaled(250, 1500), 2)

    def following(prefix: tuple[int, ...], bend: bool = True) -> list[float]:
        text = [*prompt, *prefix]
        logits = target().model(torch.tensor([text])).logits[0, -1:].float()
        found: list[float] = torch.softmax(warp(logits, [text]) if bend else logits, -1)[0].tolist()
        return found
    assert chi_square(sequences, following) > 1e-3
    assert chi_square(sequences, lambda prefix: following(prefix, False)) < 1e-6, "the penalty was put to the test"
