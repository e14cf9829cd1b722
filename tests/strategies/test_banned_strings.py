"""Banned strings: where they begin and end in tokens, rewinds that end, and the law of banning the last token."""

from pathlib import Path
from random import Random

import pytest
import torch

from harness.decoding.rewind import Answer
from harness.engine.random_stream import PhiloxStream
from harness.errors import UserError
from harness.models.stop_rule import StopRule
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request, RequestText
from strategies.banned_strings import BannedStrings, Bans
from strategies.greedy import Greedy
from strategies.parts.written import Written, lower
from tests.chances import PROMPT, chi_square, draft, drawn, target
from tests.letters import Letters
from tests.pair import tokenizer
from tests.scale import scaled

MODEL = Letters("^abcd", {"^": "ad", "a": "bd", "b": "ca", "c": "ad", "d": "bac"})  # writes abcabc…
INNER = ("greedy", "speculative:gamma=1", "speculative:gamma=5", "prompt_lookup", "jacobi", "lookahead",
         "beam:width=1", "top_p:temperature=0", "greedy+frequency_penalty:frequency=0.1")


@pytest.mark.parametrize("inner", INNER)
@pytest.mark.parametrize(("knobs", "expected"), [
    ("strings=bc", "adadadadb"), ("strings=bc,cut=last", "ababababa"), ("strings=abc", "dbcdbcdbc"),
    ("strings=a", "dbcdbcdbc"), ("strings=ab;bc", "dcdcdcdca"), ("strings=abcab;xyz", "dbcdbcabc"),
    ("strings=bc;abca", "adadadadb"), ("strings=BC", "adadadadb"), ("strings=BC,ignore_case=false", "abcabcabc"),
    ("cut=last", "abcabcabc"), ("strings=xy;ddd", "abcabcabc"), ("strings=bc,tries=0", "abcabcabc")])
def test_what_is_written_instead(inner: str, knobs: str, expected: str) -> None:
    draft = MODEL if "speculative" in inner else None
    assert MODEL.written(f"{inner}+banned_strings:{knobs}", "^", 9, draft) == expected


def test_a_ban_of_all_tokens_holds_at_all_places() -> None:
    assert MODEL.written("greedy+banned_strings:strings=abc,cut=first", "^", 3) == "dbc"
    assert MODEL.written("greedy+banned_strings:strings=abc,cut=all", "^", 3) == "dab", "no b may come second"


def test_a_ban_ends_with_a_rewind_to_an_earlier_place() -> None:
    """`abc` after x bans b at the third place; then `xd` goes back to the first, and after y that b is free again."""
    model = Letters("^xyzabcd", {"^": "xy", "x": "ad", "a": "b", "b": "c", "c": "a", "y": "z", "z": "ba", "d": "a"})
    assert model.written("greedy+banned_strings:strings=abc;xd,cut=all", "^", 4) == "yzbc"


def test_strings_of_a_search_are_banned() -> None:
    assert "bc" not in MODEL.written("beam:width=3+banned_strings:strings=bc", "^", 12)
    assert "bc" in MODEL.written("beam:width=3", "^", 12)


@pytest.mark.parametrize(("tries", "expected"), [(1, "bbb"), (2, "^^^"), (50, "^^^"), (0, "aaa")])
def test_after_the_tries_the_string_stays(tries: int, expected: str) -> None:
    model = Letters("^ab", dict.fromkeys("^ab", "ab"))
    assert model.written(f"greedy+banned_strings:strings=a;b,tries={tries}", "^", 3) == expected


def test_it_ends_although_nothing_is_allowed() -> None:
    model = Letters("^ab", dict.fromkeys("^ab", "ab"))
    for cut in ("first", "last", "all"):
        found = model.traced(f"top_p+banned_strings:strings=a;b;^;ab;ba;aab,cut={cut},tries=9", "^", 8)
        assert len(found.tokens) == 8
        assert len(found.steps.tokens) <= 8 * 10 + 8


def test_the_cost_of_rewinds_is_counted() -> None:
    found = MODEL.traced("greedy+banned_strings:strings=bc", "^", 4)
    assert MODEL.text(found.tokens) == "adab"
    assert found.steps.tokens == [1, 0, 0, 1, 0, 0, 1, 1], "a, ab, abc, ad, adb, adbc, ada, adab"
    assert sum(found.steps.forwards) == len(found.steps.tokens)


def text_of(prompt: str = "") -> RequestText:
    """A request whose tokens are bytes."""
    rule = StopRule(tokenizer(), tokenizer()(prompt)["input_ids"], frozenset(), ())
    return RequestText(prompt, lambda text: [], lambda text: [], rule.answer, lambda text: text, spelled=rule.text)


def test_characters_of_several_tokens_belong_together() -> None:
    text = "Aé€😀zÉ\ufffdx"
    written, ids = Written(text_of().spell, lower), tokenizer()(text)["input_ids"]
    grown = [written.append(token) for token in ids]
    assert written.text == "aé€😀zé\ufffdx"
    assert grown == [1, 0, 1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 2]
    assert [written.token_of(place) for place in range(8)] == [0, 1, 3, 6, 10, 11, 13, 13]
    for count in reversed(range(len(ids))):
        written.cut(count)
        again = Written(text_of().spell, lower)
        for token in ids[:count]:
            again.append(token)
        assert (written.text, written.tokens, written.begins) == (again.text, again.tokens, again.begins)


def watched(knobs: BannedStrings, ids: list[int]) -> tuple[list[int], int | None]:
    """How many tokens are free after each, and where the first rewind goes to."""
    answer = Answer(Bans(knobs, knobs.all(), Request((1,), 99, PhiloxStream(0), text=text_of("said"))), [])
    for token in ids:
        answer.add(token)
        if verdict := answer.watcher.verdict(answer.tokens):
            return answer.free[1:-1], verdict.kept
    return answer.free[1:], None


@pytest.mark.parametrize(("strings", "text", "free", "place"), [
    ("é", "aéb", [1, 1], 1), ("né", "Né", [0, 0], 0), ("é;a", "ba", [1], 1), ("bc", "abc", [1, 1], 1),
    ("\\s€", "a €", [1, 1, 1, 1], 1), ("😀x", "a😀y", [1, 1, 1, 1, 1, 6], None), ("aab", "aaab", [0, 0, 0], 1),
    ("abcd;bx", "abcx", [0, 0, 0, 4], None)])
def test_where_a_string_begins(strings: str, text: str, free: list[int], place: int | None) -> None:
    found = watched(BannedStrings(over=Greedy(), strings=strings), tokenizer()(text)["input_ids"])
    assert found == (free, place)


def test_what_was_yielded_is_never_taken_back_and_no_string_is_left() -> None:
    random, rewinds, alphabet = Random(2), 0, "abé"
    for _ in range(scaled(60, 400)):
        strings = ["".join(random.choices(alphabet, k=random.randrange(1, 4))) for _ in range(2)]
        knobs = BannedStrings(over=Greedy(), strings=";".join(strings), cut=random.choice(("first", "last", "all")))
        answer = Answer(Bans(knobs, knobs.all(), Request((1,), 99, PhiloxStream(0), text=text_of())), [])
        ids, tries = tokenizer()(alphabet)["input_ids"], 0
        while len(answer.tokens) < 25 and tries < 400:
            tries += 1
            answer.add(random.choice(ids))
            if verdict := answer.watcher.verdict(answer.tokens):
                assert verdict.kept >= answer.given
                answer.go_back(verdict.kept, verdict.bans or {})
                rewinds += 1
            answer.take()
        if max(answer.watcher.rewinds.values(), default=0) < knobs.tries:  # type: ignore[attr-defined]
            text = text_of().spell(answer.tokens)
            assert not any(string in text for string in strings), (strings, text)
    assert rewinds > 100


@torch.inference_mode()
def test_banning_the_last_token_leaves_the_rest_of_its_distribution() -> None:
    """Also over drafts: what would complete a string is left out, as if its probability were 0."""
    pairs = [(one, two) for one in (0, 1, 3, 4, 5) for two in (0, 1, 3)]
    strings = ";".join(f"t{one} t{two}" for one, two in pairs)
    strategy = STRATEGIES.build(f"speculative:gamma=2,temperature=1+banned_strings:strings={strings},cut=last")
    sequences = drawn(strategy, target(), draft(), scaled(300, 1500), 2)

    def following(prefix: tuple[int, ...], banned: bool = True) -> list[float]:
        logits = target().model(torch.tensor([[*PROMPT, *prefix]])).logits[0, -1].float()
        for one, two in pairs if banned and prefix else ():
            if prefix[-1] == one:
                logits[two] = -torch.inf
        found: list[float] = torch.softmax(logits, -1).tolist()
        return found
    assert chi_square(sequences, following) > 1e-3
    assert chi_square(sequences, lambda prefix: following(prefix, False)) < 1e-6, "the bans were put to the test"


def test_strings_come_from_both_knobs(tmp_path: Path) -> None:
    (tmp_path / "strings.txt").write_text("a testament to\n\n\\x2c and\nx;y\n", encoding="utf-8")
    knobs = STRATEGIES.build(f"banned_strings:strings=b c,file={tmp_path / 'strings.txt'}")
    assert isinstance(knobs, BannedStrings)
    assert knobs.all() == ["b c", "a testament to", ", and", "x;y"]
    assert knobs.files() == {"file": tmp_path / "strings.txt"}, "its content is part of the run's identity"
    with pytest.raises(UserError, match="cannot be read"):
        STRATEGIES.build("banned_strings:file=missing.txt")
    with pytest.raises(UserError, match="unknown"):
        BannedStrings(over=Greedy(), strings="a\\q")
