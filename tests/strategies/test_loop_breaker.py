"""The loop breaker: which texts are loops, and the same end and the same escape whatever decodes."""

from collections.abc import Sequence
from random import Random

import pytest

from harness.decoding.rewind import Answer
from harness.errors import UserError
from harness.plugins.registry import STRATEGIES
from strategies.greedy import Greedy
from strategies.loop_breaker import LoopBreaker, Loops, loop, sizes
from tests.letters import Letters
from tests.scale import scaled

RING = Letters("^abcde$", {"^": "a", "a": "b", "b": "c", "c": "ad", "d": "de", "e": "$"})
INNER = ("greedy", "speculative:gamma=1", "speculative:gamma=5", "prompt_lookup", "jacobi", "beam:width=1",
         "beam:width=1,early_stopping=true", "lookahead", "temperature:temperature=0")


def found(text: Sequence[int], longest: int, shortest: int, copies: int) -> int | None:
    return loop(sizes(text, longest, shortest, copies), copies)


@pytest.mark.parametrize(("text", "knobs", "size"), [
    ("123" * 4, (4, 1, 3), 3), ("777", (4, 1, 3), 1), ("777", (4, 2, 2), None), ("12121", (4, 1, 3), None),
    ("12121", (4, 2, 2), 2), ("112112", (4, 1, 2), 3), ("11", (4, 1, 2), 1), ("", (4, 1, 2), None),
    ("123123", (2, 1, 2), None), ("7777", (4, 2, 2), 2), ("1777", (4, 1, 3), 1), ("7771", (4, 1, 3), None)])
def test_goldens(text: str, knobs: tuple[int, int, int], size: int | None) -> None:
    assert found(text, *knobs) == size  # type: ignore[arg-type]  # letters are as good as token ids


def test_a_loop_is_its_definition() -> None:
    random, seen = Random(0), 0
    for _ in range(3000):
        text = random.choices(range(2), k=random.randrange(14))
        longest, copies = random.randrange(1, 5), random.randrange(2, 5)
        shortest = random.randrange(1, longest + 1)
        known = [size for size in range(shortest, longest + 1) if size * copies <= len(text)
                 and text[len(text) - size * copies:] == text[len(text) - size:] * copies]
        assert found(text, longest, shortest, copies) == (known[0] if known else None)
        seen += bool(known)
    assert seen > 500


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(("knobs", "text", "stop"), [
    ("then=stop", "abcabcabcabc", "ended"), ("then=cut", "abc", "ended"),
    ("then=stop,min_count=3", "abcabcabc", "ended"),
    ("then=cut,min_count=2,min_pattern=2", "abc", "ended"), ("then=cut,min_pattern=4,min_count=3", "abcabc", "ended"),
    ("then=cut,max_pattern=2", "abcabcabcabcabcabcab", "length"), ("then=escape", "abcde$", "eos"),
    ("then=escape,tries=2", "abcde$", "eos"), ("then=escape,tries=1", "abcd", "ended"),
    ("then=escape,tries=0", "abc", "ended"), ("max_pattern=0", "abcabcabcabcabcabcab", "length")])
def test_the_same_end_whatever_decodes(inner: str, knobs: str, text: str, stop: str) -> None:
    found = RING.traced(f"{inner}+loop_breaker:{knobs}", "^", 20, RING if "speculative" in inner else None)
    assert (RING.text(found.tokens), found.stop) == (text, stop)
    steps = found.steps
    assert sum(steps.tokens) == len(text)
    assert 0 not in steps.forwards[:-1], "each step of the wrapped strategy is one step"


def test_a_loop_at_the_last_token_is_cut_and_an_end_comes_first() -> None:
    assert RING.written("greedy+loop_breaker:then=cut", "^", 12) == "abc"
    assert RING.written("greedy+loop_breaker:then=cut", "^", 11) == "abcabcabcab"
    ended = Letters("^a$", {"^": "a", "a": "$", "$": "$"})
    found = ended.traced("greedy+loop_breaker:then=cut", "^", 9)
    assert (ended.text(found.tokens), found.stop) == ("a$", "eos")


def test_the_prompt_is_no_part_of_a_loop() -> None:
    assert RING.written("greedy+loop_breaker:then=stop", "^abcabcabc", 20) == "abcabcabcabc"


def test_what_breaks_off_in_time_is_written_whole() -> None:
    model = Letters("^abcde", {"^": "ab", "a": "b", "b": "c", "c": "d", "d": "e", "e": "a"})
    for then in ("cut", "escape"):
        found = model.traced(f"speculative:gamma=3+loop_breaker:then={then},min_count=4", "^", 18, model)
        assert model.text(found.tokens) == "abcdeabcdeabcdeabc", "three copies and a part are no loop of four"
        assert found.stop == "length"


def test_only_what_repeats_is_held() -> None:
    answer = Answer(Loops(LoopBreaker(over=Greedy(), then="cut", max_pattern=4), 0), [])
    for token in b"xyxyzxy":
        answer.add(token)
    assert answer.free == [0, 1, 2, 2, 2, 5, 5, 5]
    assert Loops(LoopBreaker(over=Greedy()), 0).read(b"xxx") == []


def test_what_was_yielded_is_never_taken_back() -> None:
    random, escapes = Random(1), 0
    for _ in range(scaled(100, 1000)):
        knobs = LoopBreaker(over=Greedy(), then="escape", max_pattern=4, min_count=3)
        answer = Answer(Loops(knobs, 10**6), [])
        for _ in range(60):
            answer.add(random.choices(range(2), (4, 1))[0])
            if verdict := answer.watcher.verdict(answer.tokens):
                assert verdict.kept >= answer.given
                assert verdict.bans == {verdict.kept: answer.tokens[verdict.kept]}
                answer.go_back(verdict.kept, verdict.bans)
                escapes += 1
            answer.take()
    assert escapes > 300


def test_a_loop_that_begins_in_what_another_strategy_kept_is_escaped_after_it() -> None:
    model = Letters("^abcd$", {"^": "a", "a": "bd", "b": "ca", "c": "ad", "d": "ac", "$": "a"})
    inside = model.traced("greedy+loop_breaker:then=escape,min_count=3+banned_strings:strings=bc", "^", 16)
    text = model.text(inside.tokens)
    assert (len(text), inside.stop) == (16, "length")
    assert "bc" not in text
    assert loop(sizes(inside.tokens, 32, 1, 3), 3) is None
    outside = model.traced("greedy+banned_strings:strings=bc+loop_breaker:then=escape,min_count=3", "^", 16)
    assert "bc" not in model.text(outside.tokens)
    assert all(found(outside.tokens[:end], 32, 1, 3) is None for end in range(17))


@pytest.mark.parametrize(("knobs", "sentence"), [
    ({"min_count": 2}, "raise one of them"), ({"min_pattern": 40}, "lower it"), ({"min_count": 1}, "at least 2")])
def test_settings_that_end_every_text_are_refused(knobs: dict[str, int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        LoopBreaker(over=Greedy(), **knobs)
    assert STRATEGIES.build("loop_breaker:min_count=2,min_pattern=2").spec()
