"""Logit warps that penalise tokens of the sequence so far, and strategies that apply them to another strategy."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, log
from typing import ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from harness.engine.logit_warps import Warp, identity
from harness.engine.session import Session
from harness.errors import Unsupported
from harness.plugins.native import NativeCall, NativeOptions
from harness.plugins.strategy import Over, Request

EXPONENT = 88.7228  # natural logarithm of the largest float32

def repetition(penalty: float, start: int = 0) -> Warp:
    """Divide the positive logits of tokens that occur in the sequence by `penalty`, and multiply the negative ones.

    Tokens before index `start` are ignored. As in transformers and vLLM; the formula of CTRL (1909.05858, §4.1) divides
    negative logits too, which would make those tokens likelier.
    """
    def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        warped = logits.clone()
        for row, tokens, _ in _token_counts(logits, sequences, start):
            values = logits[row, tokens]
            warped[row, tokens] = torch.where(values < 0, values * penalty, values / penalty)
        return warped
    return identity if penalty == 1 else warp


def frequency(presence: float, occurrence: float, start: int) -> Warp:
    """Subtract `presence` from the logits of tokens that occur in the sequence, and `occurrence` per occurrence.

    Tokens before index `start` are ignored; in the OpenAI API and in vLLM these are the prompt.
    """
    def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        warped = logits.clone()
        for row, tokens, counts in _token_counts(logits, sequences, start):
            warped[row, tokens] -= occurrence * counts + presence
        return warped
    return identity if presence == occurrence == 0 else warp


def no_repeat_ngram(size: int, start: int = 0) -> Warp:
    """Mask tokens that would complete a `size`-gram that already occurs in the sequence from index `start` on.

    A row in which every token would be masked stays unchanged (transformers masks it).
    """
    def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        return without(logits, {row: completing(sequences[row][start:], size) for row in range(len(logits))})
    return identity if size == 0 else warp


def without(logits: Tensor, banned: "Mapping[int, np.ndarray[tuple[int], np.dtype[np.int64]]]") -> Tensor:
    """Mask the `banned` token ids of each row; a row in which no token would be left stays unchanged."""
    masked = logits.clone()
    for row, tokens in banned.items():
        masked[row, torch.from_numpy(tokens).to(logits.device)] = -inf
    return masked.where(masked.amax(-1, keepdim=True) > -inf, logits)


class Breakers(Protocol):
    """Tokens that end a repeat."""

    def spares(self, token: int) -> bool:
        """Return whether the token alone ends a repeat, and so is never penalised."""
        ...

    def after(self, tokens: Sequence[int]) -> int:
        """Return the number of tokens after the last breaker; all of them if there is none."""
        ...


def dry(multiplier: float, base: float, allowed: int, last: int = 0, breakers: Breakers | None = None) -> Warp:
    """Subtract `multiplier` · `base`^(ℓ − `allowed`) from tokens that extend a repeat of ℓ ≥ `allowed` tokens (DRY).

    ℓ counts tokens of the sequence, or of its `last` tokens unless 0, none before the last of the `breakers`. The
    exponent is bounded so that the power is a finite float32.
    """
    most = EXPONENT / log(base) if base > 1 else inf

    def warp(logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        warped = logits.clone()
        for row in range(len(logits)):
            tokens = list(sequences[row][-last:])
            limit = breakers.after(tokens) if breakers else len(tokens)
            lengths = repeats(tokens, limit) if limit >= allowed else {}
            taken = {token: multiplier * base ** min(length - allowed, most) for token, length in lengths.items()
                     if length >= allowed and token < logits.shape[-1] and not (breakers and breakers.spares(token))}
            values = torch.tensor(list(taken.values()), dtype=torch.float64).clamp_max(torch.finfo(logits.dtype).max)
            warped[row, torch.tensor(list(taken), dtype=torch.int64).to(logits.device)] -= values.to(logits)
        return warped
    return identity if multiplier == 0 else warp


def repeats(tokens: Sequence[int], limit: int) -> dict[int, int]:
    """Return each token that followed an earlier occurrence of the end of `tokens`, with the length of that end.

    Of several occurrences before a token the longest counts, up to `limit`; those of length 0 are left out. Linear in
    the length of `tokens`.
    """
    back, lengths = tokens[::-1], dict[int, int]()
    for place, length in enumerate(prefixes(back)[1:]):
        if length:
            lengths[back[place]] = max(lengths.get(back[place], 0), min(length, limit))
    return lengths


def prefixes(tokens: Sequence[int]) -> list[int]:
    """Return for each place the length of the longest run from there that also begins `tokens` (Z-function)."""
    size, left, right = len(tokens), 0, 0  # of the runs found so far the one that ends last is left … right
    lengths = [size] * min(size, 1)
    for place in range(1, size):
        length = min(right - place, lengths[place - left]) if place < right else 0
        while place + length < size and tokens[length] == tokens[place + length]:
            length += 1
        if place + length > right:
            left, right = place, place + length
        lengths.append(length)
    return lengths


def completing(sequence: Sequence[int], size: int) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Return the tokens that followed earlier occurrences of the last `size` − 1 tokens, in order."""
    tokens = np.asarray(sequence, np.int64)
    count = max(0, len(tokens) - size + 1)
    same = np.ones(count, bool)
    if not count:
        return tokens[:0]
    for i in range(size - 1):
        same &= tokens[i:i + count] == tokens[len(tokens) - size + 1 + i]
    return tokens[len(tokens) - count:][same]


def _token_counts(logits: Tensor, sequences: Sequence[Sequence[int]], start: int
                  ) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield each row with the distinct tokens of its sequence from `start` on, ids below V only, and their counts."""
    for row in range(len(logits)):
        ids = np.asarray(sequences[row][start:], np.int64)
        tokens, counts = np.unique(ids[ids < logits.shape[-1]], return_counts=True)
        yield row, torch.from_numpy(tokens).to(logits.device), torch.from_numpy(counts).to(logits.device)


@dataclass(frozen=True)
class Penalty(Over):
    """A strategy that runs another one on logits changed by `warp`.

    A search scores hypotheses with the log p of the changed logits: beam search in transformers does so for a warp that
    masks or subtracts, with `renormalize_logits=True`.
    """

    family: ClassVar[str] = "anti-repetition"

    @abstractmethod
    def warp(self, start: int) -> Warp:
        """Return the logit warp for a sequence whose new tokens start at `start`; `identity` changes nothing."""

    def request_warp(self, request: Request) -> Warp:
        """Return the logit warp for a request; a penalty that needs its text overrides this, and refuses `native`."""
        return self.warp(request.start)

    def native(self, options: NativeOptions) -> NativeCall:
        """Use the engine's own penalty for one penalty over a sampler if it has it, else this project's logit warps."""
        inner, own = self.over.native(options), options(self)
        if inner.speculative or inner.beam:
            raise Unsupported("vLLM warps no logits of a method that drafts or searches")
        if own and not inner.warps and not isinstance(self.over, Penalty):
            return NativeCall({**inner.sampling, **own.sampling})
        return NativeCall({"temperature": 1.0 if inner.sampling["temperature"] else 0.0}, warps=True)

    def generate(self, session: Session, request: Request) -> Iterator[Sequence[int]]:
        """Yield the steps of the other strategy."""
        warp = self.request_warp(request)
        if warp is identity:
            yield from self.over.generate(session, request)
        else:
            with session.with_logit_warp(warp):
                yield from self.over.generate(session, request)
