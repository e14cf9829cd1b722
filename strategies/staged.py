"""Staged speculation: the draft model is itself sped up by n-gram drafts.

Spector & Ré 2023 (arXiv 2308.04623). Inside each draft of `gamma` tokens, what followed the same `max_ngram` tokens
earlier in the text is proposed to the draft model, which checks it in one forward; the target then checks what the
draft model wrote. Each stage is exact, so a token counts as drawn from the draft model, whatever proposed it. The paper
proposes from an n-gram model of much text instead. `temperature` and `p` set the distribution, which is exact.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.accept import Accept, at, delta, rejection
from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.engine.tree import Prefixes, TokenTree
from harness.plugins.strategy import Need, Request, knob
from strategies.drafters.ngram import NgramLookup
from strategies.drafters.source_first import with_source


@dataclass(frozen=True)
class Staged(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    gamma: int = knob(4, "tokens drafted per step", low=1, high=64, sweep=(2, 4, 8, 12), also="num_assistant_tokens")
    max_ngram: int = knob(3, "longest n-gram looked up for the draft model", low=1, high=64, sweep=(2, 3, 5))

    paper: ClassVar[str] = "Spector & Ré 2023, arXiv 2308.04623"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def drafter(self, session: Session, request: Request) -> "_Stage":
        """The draft model, which verifies n-grams."""
        return _Stage(self, session.draft, request)

    def rule(self) -> Accept:
        """min(1, p/q), q the draft model's."""
        return rejection


class _Stage:
    def __init__(self, owner: Staged, session: Session, request: Request) -> None:
        self.session, self.gamma, self.law, self.request = session, owner.gamma, owner.logit_warp(), request
        self.drawn = owner.draws(request) is not None
        self.lookup = with_source(session, NgramLookup(owner.max_ngram, owner.gamma))
        self.check = at(owner.temperature, delta)

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        """A chain of `gamma` tokens in as few forwards of the draft model as the n-grams allow."""
        tokens, probs, wanted = list[int](), list[Tensor](), min(self.gamma, limit)
        while len(tokens) < wanted:
            whole = [*text, *tokens]
            tree = self.lookup.draft(whole, last, wanted - len(tokens) - 1)
            self.session.follow(whole)
            logits = self.law(self.session.read(tree).logits, Prefixes(whole, tree))
            path, token = self.check(tree, logits.cpu() if self.drawn else logits, self.request.stream)
            self.session.keep(path)
            tokens += [*(tree.tokens[node] for node in path), token]
            if self.drawn:
                probs += torch.softmax(logits[[0, *(node + 1 for node in path)]].double(), -1)
        return TokenTree.chain(tokens, probs)
