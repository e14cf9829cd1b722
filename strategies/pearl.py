"""PEARL: draft the next tokens while the target still checks the last ones.

Liu et al. 2024 (arXiv 2408.11850). Two workers meet at a barrier each step: the draft model writes `gamma` tokens ahead
while the target judges what it was given at the last barrier and, with its last row, the first of the new ones. A
rejection throws the tokens ahead away; there is no bonus token. The workers are run one after the other here: tokens
and counts are those of two devices, the time is not: it would be the longer of the two sides at each step.
`temperature` and `p` choose the law, which is kept exactly.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from harness.decoding.accept import Accept, at, rejection
from harness.decoding.loop import Step
from harness.decoding.session import Session
from harness.decoding.tree import EMPTY, Prefixes, TokenTree
from harness.decoding.verified import Verified
from harness.strategy import Need, Request, knob
from strategies.drafters.chain import ModelChain


@dataclass(frozen=True)
class Pearl(Verified):
    """Lossless at temperature 0; above it the output law is that of `top_p` with the same knobs."""

    gamma: int = knob(4, "tokens drafted a step; best near target time / draft time", low=1, high=64,
                      sweep=(2, 3, 4, 5, 8))

    paper: ClassVar[str] = "Liu et al. 2024, arXiv 2408.11850"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def drafter(self, session: Session, request: Request) -> ModelChain:
        """The draft model, one token at a time."""
        return ModelChain(session.draft, self.gamma, self.law(), self.draws(request))

    def rule(self) -> Accept:
        """min(1, p/q)."""
        return rejection

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield what is certain after each barrier: the accepted tokens, and after a rejection the target's own."""
        drafter, law, check = self.drafter(session, request), self.law(), at(self.temperature, self.rule())
        text, waiting, end = list(request.prompt), EMPTY, len(request.prompt) + request.max_new_tokens
        session.follow(text)
        last = Step(EMPTY, session.read(), (), 0)
        block = [check(EMPTY, law(last.reading.logits, [text]), request.stream)[1]]
        while True:
            text = [*text, *block]
            yield block
            ahead = drafter.draft([*text, *waiting.tokens], last, end - len(text) - len(waiting))
            session.follow(text)
            logits = law(session.read(waiting).logits, Prefixes(text, waiting))
            judged = _joined(waiting, ahead)
            if ahead.tokens:  # what is said after the first token ahead is not known yet, and never used
                logits = torch.cat([logits, logits[-1:]])
            path, token = check(judged, logits, request.stream)
            session.keep(path[:len(waiting)])
            block, all_right = [judged.tokens[node] for node in path], bool(ahead.tokens) and len(path) == len(judged)
            if all_right:
                waiting = TokenTree.chain(ahead.tokens[1:], [ahead.probs[i] for i in range(len(ahead.probs) - 1)])
            else:
                block, waiting = [*block, token], EMPTY


def _joined(waiting: TokenTree, ahead: TokenTree) -> TokenTree:
    """The chain that waits and the first token of the next."""
    probs = [tree.probs[i - 1] for tree, count in ((waiting, len(waiting)), (ahead, 1)) for i in range(count)
             if i - 1 in tree.probs]
    return TokenTree.chain([*waiting.tokens, *ahead.tokens[:1]], probs)
