"""Translation between the tokens of a target and those of a draft model with another vocabulary."""

import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from math import inf
from typing import Any

import torch
from torch import Tensor

from harness.models.stop_rule import BROKEN
from harness.models.tokenizer import special_ids

BYTE = re.compile("<0x([0-9A-F]{2})>")  # how vocabularies that write a blank as ▁ write a byte
ITSELF = [*range(33, 127), *range(161, 173), *range(174, 256)]  # bytes that others write as the character of the number
LETTERS = {chr(byte): byte for byte in ITSELF} | {
    chr(256 + i): byte for i, byte in enumerate(sorted({*range(256)} - {*ITSELF}))}  # Ġ for a blank
CONTEXT = 10  # tokens that are decoded and encoded together with new ones, as in transformers
Ids = dict[bytes, int]
"""The id of each text, in UTF-8; parts of characters are parts of their bytes."""


class Translation:
    """What a target and a draft model with another vocabulary have in common.

    Two tokens are the same if they stand for the same text, blanks included, however a vocabulary writes them; EOS and
    BOS are the same in both. `pairs` holds the ids of these tokens, the target's and the draft model's. `sizes` are the
    numbers of logits of both models.
    """

    def __init__(self, target: Any, draft: Any, sizes: tuple[int, int], device: torch.device) -> None:
        self.target, self.draft, self.size = target, draft, sizes[0]
        self.texts, self._special = token_texts(target), special_ids(target)
        self._ids, self._own = ids_of(self.texts, sizes[0]), ids_of(token_texts(draft), sizes[1])
        self.pairs = {self._ids[text]: self._own[text] for text in self._ids if text in self._own}
        self.pairs |= _special_pairs(target, draft, sizes)
        self._shared = torch.tensor([[*self.pairs], [*self.pairs.values()]], dtype=torch.long, device=device)
        self._known = {token: [other] for token, other in self.pairs.items()}
        begun = draft("a")["input_ids"][:1]
        self.start = begun if begun == [draft.bos_token_id] else []  # the BOS, if every text begins with one

    def to_draft(self, tokens: Sequence[int]) -> list[int]:
        """Translate tokens of the target one by one; one that the draft model lacks becomes several of the same text.

        Special tokens that it lacks are left out.
        """
        return self._begun([piece for token in tokens for piece in self._one(token)])

    def logits(self, logits: Tensor) -> Tensor:
        """Return logits (N, V) of the target's tokens from the draft model's: −inf where it lacks a token."""
        translated = logits.new_full((len(logits), self.size), -inf)
        translated[:, self._shared[0]] = logits[:, self._shared[1]]
        return translated

    def encoded(self, tokens: Sequence[int]) -> list[int]:
        """Return tokens of the target as the draft model's tokenizer encodes their text; special ones as `to_draft`."""
        own = list[int]()
        for special, group in groupby(tokens, self._special.__contains__):
            part = list(group)
            own += [piece for token in part for piece in self._one(token)] if special else self.draft(
                decoded(self.target, part), add_special_tokens=False)["input_ids"]
        return self._begun(own)

    def unfinished(self, tokens: Sequence[int]) -> bool:
        """Return whether the last tokens of the target end within a character."""
        return decoded(self.target, tokens[-CONTEXT:]).endswith(BROKEN)

    def written(self, before: Sequence[int], tokens: Sequence[int]) -> str:
        """Return the text of `tokens` of the draft model after those `before`, up to its last whole character."""
        start = list(before[-CONTEXT:])
        return decoded(self.draft, [*start, *tokens])[len(decoded(self.draft, start)):].rstrip(BROKEN)

    def following(self, tokens: Sequence[int], text: str) -> list[int]:
        """Return `text` as the target's tokenizer encodes it after its last `tokens`.

        Where it would merge the end of these with the start of the text, that start becomes tokens of its own, each the
        longest that fits.
        """
        ids = self.target(decoded(self.target, tokens[-CONTEXT:]) + text, add_special_tokens=False)["input_ids"]
        found, left = list[int](), len(text.encode())
        while ids and left:  # from the end, because a first token may have a blank that its text lacks
            piece = self.texts.get(token := ids.pop(), b"")
            found = ([token] if len(piece) <= left else split(piece[-left:], self._ids)) + found
            left = max(0, left - len(piece))
        return found

    def _begun(self, own: list[int]) -> list[int]:
        return own if own[:1] == self.start else self.start + own

    def _one(self, token: int) -> list[int]:
        if token not in self._known:
            self._known[token] = split(self.texts.get(token, b""), self._own)
        return self._known[token]


def decoded(tokenizer: Any, tokens: Sequence[int]) -> str:
    """Return the text of tokens without special ones."""
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text


def token_texts(tokenizer: Any) -> dict[int, bytes]:
    """Return the text of each token, in UTF-8, except for special tokens."""
    vocabulary, added, special = tokenizer.get_vocab(), tokenizer.added_tokens_decoder, special_ids(tokenizer)
    starts = [token[:1] for token in vocabulary]
    read = _from_letters if starts.count("Ġ") > starts.count("▁") else _with_blanks
    return {number: token.encode() if number in added else read(token) for token, number in vocabulary.items()
            if number not in special}


def ids_of(texts: Mapping[int, bytes], size: int) -> Ids:
    """Return the id below `size` of each text; of several the highest, because letters come after single bytes."""
    return {texts[token]: token for token in sorted(texts) if token < size}


def split(text: bytes, ids: Ids) -> list[int]:
    """Split text into the tokens `ids`, each the longest that fits; bytes of which there is none are left out."""
    found, longest = list[int](), max(map(len, ids), default=0)
    while text:
        size = next((size for size in range(min(longest, len(text)), 0, -1) if text[:size] in ids), 0)
        found += [ids[text[:size]]] if size else []
        text = text[max(size, 1):]
    return found


def _from_letters(token: str) -> bytes:
    """Read a token of a byte-level vocabulary, in which each byte is written as a letter."""
    return bytes(LETTERS[letter] for letter in token) if set(token) <= LETTERS.keys() else token.encode()


def _with_blanks(token: str) -> bytes:
    """Read a token of a vocabulary that writes a blank as ▁."""
    byte = BYTE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace("▁", " ").encode()


def _special_pairs(target: Any, draft: Any, sizes: tuple[int, int]) -> dict[int, int]:
    """Return the ids of EOS, of BOS, and of special tokens with the same name, the target's and the draft model's."""
    names = [{tokenizer.convert_ids_to_tokens(token): token for token in special_ids(tokenizer)}
             for tokenizer in (target, draft)]
    both = [(target.eos_token_id, draft.eos_token_id), (target.bos_token_id, draft.bos_token_id),
            *((names[0][name], names[1][name]) for name in sorted(names[0].keys() & names[1].keys()))]
    pairs = dict[int, int]()
    for one, other in both:
        if (one is not None and other is not None and one < sizes[0] and other < sizes[1] and one not in pairs
                and other not in pairs.values()):
            pairs[one] = other
    return pairs
