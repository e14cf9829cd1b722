"""Translation between vocabularies: texts of tokens, pairs, splitting, and text in the tokens of each model."""

from functools import cache
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from harness.decoding.accept import one_by_one, rows, walk
from harness.engine.random_stream import PhiloxStream
from harness.engine.tree import TokenTree
from harness.models.translation import Translation, decoded, split, token_texts
from tests import vocabularies

TEXTS = ["The smallest cat sat", " a  small café, naïve: 12", "😀 ↗ mice"]


@cache
def letters_and_blanks() -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    return vocabularies.byte_level(), vocabularies.with_blanks()


def between(target: Any, draft: Any) -> Translation:
    return Translation(target, draft, (len(target), len(draft)), torch.device("cpu"))


@cache
def both() -> list[Translation]:
    one, other = letters_and_blanks()
    return [between(one, other), between(other, one)]


def test_a_token_is_its_bytes() -> None:
    letters, blanks = (token_texts(each) for each in letters_and_blanks())
    for tokenizer, texts in zip(letters_and_blanks(), (letters, blanks), strict=True):
        assert {texts[token] for token in tokenizer("↗")["input_ids"] if token in texts} >= {b"\xe2", b"\x86", b"\x97"}
        assert not texts.keys() & set(tokenizer.all_special_ids)
        for text in TEXTS:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert b"".join(texts[token] for token in ids).decode().removeprefix(" ") == text.removeprefix(" ")
    assert b" cat" in letters.values()
    assert b" cat" in blanks.values()


def test_the_same_text_is_the_same_token() -> None:
    """Blanks, parts of characters, EOS and BOS; of a letter and its byte, the letter."""
    letters, blanks = letters_and_blanks()
    pairs = both()[0].pairs
    names = {letters.convert_ids_to_tokens(one): blanks.convert_ids_to_tokens(two) for one, two in pairs.items()}
    assert [names[name] for name in ("Ġcat", "Ġ", "a", "Ã©", "Ã", "<s>", "</s>")] == [
        "▁cat", "▁", "a", "é", "<0xC3>", "<|begin|>", "<|end|>"]
    assert "<pad>" not in names
    assert len(set(pairs.values())) == len(pairs)
    assert {two: one for one, two in pairs.items()}.items() <= both()[1].pairs.items()


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("text", TEXTS)
def test_the_draft_model_reads_the_same_text(number: int, text: str) -> None:
    translation = both()[number]
    tokens = [translation.target.bos_token_id, *translation.target(text, add_special_tokens=False)["input_ids"]]
    for own in (translation.to_draft(tokens), translation.encoded(tokens)):
        assert own[0] == translation.draft.bos_token_id
        assert own.count(own[0]) == 1
        assert decoded(translation.draft, own).strip() == text.strip()
    without = translation.to_draft(tokens[1:])
    assert (without[:1] == [translation.draft.bos_token_id]) == (number == 0), "one tokenizer always begins with BOS"


def test_a_prefix_is_translated_to_a_prefix() -> None:
    translation = both()[0]
    tokens = translation.target("".join(TEXTS), add_special_tokens=False)["input_ids"]
    whole = translation.to_draft(tokens)
    for end in range(len(tokens)):
        assert whole[:len(own := translation.to_draft(tokens[:end]))] == own


def test_special_tokens_that_the_draft_model_lacks_are_left_out() -> None:
    translation = both()[0]
    pad, cat = translation.target.pad_token_id, translation.target("cat")["input_ids"]
    assert translation.to_draft([pad, *cat, pad]) == translation.to_draft(cat)
    assert translation.encoded([pad, *cat, pad]) == translation.encoded(cat)
    assert translation.to_draft([*cat, translation.target.eos_token_id])[-1] == translation.draft.eos_token_id


def test_text_is_split_into_the_longest_tokens() -> None:
    assert split(b"abcabx", {b"a": 0, b"ab": 1, b"abc": 2, b"b": 3}) == [2, 1]
    assert split(b"", {b"a": 0}) == split(b"a", {}) == []


@pytest.mark.parametrize("number", [0, 1])
def test_text_is_encoded_as_it_follows(number: int) -> None:
    """Also after a token that ends within a word, where the tokenizer would have merged across its end."""
    translation = both()[number]
    for text in ("The smallest cat sat", "The café: 12 grams"):
        ids = translation.target(text, add_special_tokens=False)["input_ids"]
        for end in range(1, len(ids)):
            rest = b"".join(translation.texts[token] for token in ids[end:]).decode()
            assert translation.following(ids[:end], rest) == ids[end:]
        words = b"".join(translation.texts[token] for token in ids).decode()
        for end in range(2, len(words)):
            start = split(words[:end].encode(), {text: token for token, text in translation.texts.items()})
            found = translation.following(start, words[end:])
            assert b"".join(translation.texts[token] for token in found).decode() == words[end:]
    assert translation.following(ids, "") == []


def test_a_draft_ends_with_a_whole_character() -> None:
    for translation in both():
        before = translation.draft("The cat")["input_ids"]
        smile = translation.draft("The cat 😀")["input_ids"][len(before):]
        assert translation.written(before, smile) == " 😀"
        assert translation.written(before, smile[:-1]) in (" ", "")
        assert translation.written(before, [*before[-1:], translation.draft.eos_token_id]).strip() == "cat"
        assert translation.unfinished(translation.target("a 😀")["input_ids"][:-1])
        assert not translation.unfinished(translation.target("a 😀")["input_ids"])


def test_logits_of_tokens_that_one_model_lacks() -> None:
    """By hand: (a, b, c) for the target, (c, x, b) for the draft model; padding of either is no token."""
    translation = Translation(vocabularies.letters("abc"), vocabularies.letters("cxb"), (4, 5), torch.device("cpu"))
    assert translation.pairs == {1: 2, 2: 0}
    found = translation.logits(torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]]))
    assert found.tolist() == [[-torch.inf, 3.0, 1.0, -torch.inf]]
    assert translation.to_draft([0, 1, 2, 3]) == [2, 0]


class _Never(PhiloxStream):
    def coin(self, chance: float) -> bool:
        return False


@pytest.mark.parametrize("drafted", [0, 1])
def test_golden_of_the_intersection(drafted: int) -> None:
    """p = (.5, .3, .2) and the renormalised q = (.4, .6, 0): accepted with .7, residual (1/3, 0, 2/3)."""
    translation = Translation(vocabularies.letters("abc"), vocabularies.letters("xba"), (3, 3), torch.device("cpu"))
    q = translation.logits(torch.tensor([[0.5, 0.3, 0.2]]).log())[0].double().softmax(-1)
    p = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    torch.testing.assert_close(q, torch.tensor([0.4, 0.6, 0.0], dtype=torch.float64))
    assert float(torch.minimum(p, q).sum()) == pytest.approx(0.7)
    path, residual = walk(TokenTree.chain([drafted], [q]), rows(p.log().expand(2, 3)), one_by_one, _Never(0))
    assert not path
    torch.testing.assert_close(residual, torch.tensor([1 / 3, 0.0, 2 / 3], dtype=torch.float64))
