"""Grammars of answers: the tokens that may follow an answer so far, found by the library llguidance.

A grammar is about the answer alone, not the prompt, and about its bytes: any tokens that spell a possible answer are
possible. The states are kept by the tokens of the answer, and a state is copied before a token is added to it. So the
logit warp is a function of the sequence alone, and holds in beams, trees of drafts and batches.
"""

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from math import inf
from textwrap import shorten
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from harness.plugins.native import NativeCall, NativeOptions
from harness.plugins.strategy import Over, Request

MISSING = "needs the library llguidance: pip install 'decodebench[grammar]'"
KEPT = 2048  # answers so far whose states are kept
Mask = np.ndarray[Any, np.dtype[np.bool_]]


def library() -> Any:
    """Return the module llguidance; raises `Unsupported` with the command that installs it."""
    try:
        import llguidance.hf
    except ImportError:
        raise Unsupported(MISSING) from None
    return llguidance


@lru_cache(maxsize=4)
def vocabulary(tokenizer: Any, ends: tuple[int, ...]) -> Any:
    """Return the bytes of all tokens for llguidance; raises `Unsupported` for a tokenizer that does not tell them."""
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise Unsupported("a grammar needs the tokenizer of the library tokenizers, which this model has not")
    if not ends:
        raise Unsupported("a grammar needs a token that ends the answer (EOS), which this model has not")
    try:
        return library().hf.from_tokenizer(tokenizer, eos_token=list(ends))
    except ValueError as error:
        raise Unsupported(f"llguidance cannot read the tokenizer of this model ({error})") from None


class Matching:
    """The tokens that `grammar` allows after each answer so far, for one request.

    The answer may end only where the grammar is complete. What follows its end is not restricted, nor is what follows
    an impossible answer, which is drafted now and then but never chosen. Raises `UserError` for an invalid grammar.
    """

    def __init__(self, grammar: str, request: Request) -> None:
        self.prompt, tokenizer = list(request.prompt[:request.start]), request.as_text.tokenizer
        own = getattr(tokenizer, "eos_token_id", None)
        self.ends = tuple(sorted(request.eos)) or (() if own is None else (own,))
        self.vocabulary = vocabulary(tokenizer, self.ends)
        first = library().LLMatcher(self.vocabulary, grammar, log_level=0)
        if first.is_error():
            raise UserError(f"The grammar cannot be used ({_reason(first)}).")
        self._first, self._states = first, OrderedDict[tuple[int, ...], Any]()

    def warp(self, logits: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Mask the tokens that the grammar does not allow; raises `Unsupported` if it leaves none of a row.

        Rows after another prompt stay unchanged.
        """
        allowed = np.ones(logits.shape, bool)
        for row, sequence in enumerate(sequences):
            start = len(self.prompt)
            if list(sequence[:start]) == self.prompt and (mask := self.allowed(tuple(sequence[start:]))) is not None:
                size = min(len(mask), logits.shape[-1])
                allowed[row, :size], allowed[row, size:] = mask[:size], False
        if allowed.all():
            return logits
        warped = logits.masked_fill(~torch.from_numpy(allowed).to(logits.device), -inf)
        if not allowed.any(-1).all() or (logits.device.type == "cpu" and bool((warped.amax(-1) == -inf).any())):
            raise Unsupported("no token is left that the grammar allows, so the answer cannot go on")
        return warped

    def allowed(self, answer: tuple[int, ...]) -> Mask | None:
        """Return which tokens (V,) may follow; None if the answer has ended or is impossible."""
        if (state := self._after(answer)) is None:
            return None
        accepting = state.is_accepting()
        if state.is_stopped():
            mask = np.zeros(self.vocabulary.vocab_size, bool)
        else:
            bits = np.frombuffer(state.compute_bitmask(), np.uint8)
            mask = np.unpackbits(bits, bitorder="little")[:self.vocabulary.vocab_size].astype(bool)
        if state.is_error():
            raise Unsupported(f"llguidance gives up on the grammar ({_reason(state)})")
        mask[[token for token in self.ends if token < len(mask)]] = accepting
        return mask

    def forced(self, answer: Sequence[int]) -> list[int]:
        """Return tokens that spell the only text that may follow; none if there is a choice at once."""
        state = self._after(tuple(answer))
        if state is None or state.is_stopped():
            return []
        tokens: list[int] = state.deep_copy().compute_ff_tokens()
        return tokens[:state.validate_tokens(tokens)]

    def checked(self, answer: Sequence[int], block: Sequence[int]) -> Sequence[int]:
        """Return the new tokens `block` after `answer`; raises `Unsupported` if one of them was not allowed."""
        for count, token in enumerate(block):
            mask = self.allowed((*answer, *block[:count]))
            if mask is None:
                break
            if token >= len(mask) or not mask[token]:
                raise Unsupported("it chooses tokens whose probability is 0, so it cannot obey a grammar")
        return block

    def _after(self, answer: tuple[int, ...]) -> Any:
        """Return the state after an answer; None if it has ended or is impossible."""
        size = len(answer)
        while size and answer[:size] not in self._states:
            size -= 1
        state = self._states[answer[:size]] if size else self._first
        for count in range(size + 1, len(answer) + 1):
            state = self._states[answer[:count]] = self._next(state, answer[count - 1])
        if answer:
            self._states.move_to_end(answer)
        while len(self._states) > KEPT:
            self._states.popitem(last=False)
        return state

    def _next(self, state: Any, token: int) -> Any:
        if state is None or token in self.ends or not state.validate_tokens([token]):
            return None
        state = state.deep_copy()
        state.consume_token(token)
        return state


def _reason(state: Any) -> str:
    return shorten(" ".join(state.get_error().split()), 200, placeholder=" …")


class Structured(Over):
    """Another strategy whose answers obey a grammar: before anything else, tokens that it does not allow are masked."""

    family: ClassVar[str] = "constraints"

    @abstractmethod
    def grammar(self, request: Request) -> str:
        """Return the grammar of the answer as llguidance reads it; raises `UserError` if there is none."""

    def native(self, options: NativeOptions) -> NativeCall:
        """Send the grammar with each request; the engine obeys it while it samples."""
        own, inner = options(self), self.over.native(options)
        if own is None or inner.warps or inner.beam:
            raise Unsupported("vLLM obeys a grammar only while it samples with its own samplers")
        return NativeCall({**inner.sampling, **own.sampling}, inner.speculative)

    def generate(self, session: Session, request: Request) -> Iterator[Sequence[int]]:
        """Yield the steps of the other strategy."""
        matching, answer = Matching(self.grammar(request), request), list(request.prompt[request.start:])
        with session.with_logit_warp(matching.warp):
            for block in self.over.generate(session, replace(request, forced=matching.forced)):
                yield matching.checked(answer, block)
                answer += block
