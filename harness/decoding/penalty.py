"""Logit warps that penalise tokens of the sequence so far, and strategies that apply them to another strategy."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from harness.engine.logit_warps import Warp, identity
from harness.engine.session import Session
from harness.errors import Unsupported
from harness.plugins.native import NativeCall, NativeOptions
from harness.plugins.strategy import Over, Request


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
        masked = logits.clone()
        for row in range(len(logits)):
            masked[row, torch.from_numpy(completing(sequences[row][start:], size)).to(logits.device)] = -inf
        return masked.where(masked.amax(-1, keepdim=True) > -inf, logits)
    return identity if size == 0 else warp


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
        warp = self.warp(len(request.prompt))
        if warp is identity:
            yield from self.over.generate(session, request)
        else:
            with session.with_logit_warp(warp):
                yield from self.over.generate(session, request)
