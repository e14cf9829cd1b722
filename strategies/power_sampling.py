"""Power sampling: draw texts in proportion to p(text)^alpha by redrawing their ends.

Karan and Du, Reasoning with Sampling: Your Base Model is Smarter Than You Think, 2025 (arXiv 2510.14901, §4; code
aakaran/reasoning-with-sampling). A low temperature prefers likely tokens, p^alpha likely texts: a token after which
many unlikely texts are possible loses against one with a single likely end. A text grows by `block` tokens at
temperature 1/alpha. Then `moves` times a position in it is drawn uniformly, the rest is drawn anew at that temperature,
and the new text is accepted by the rule of Metropolis and Hastings. A text that has ended after the moves is the
answer. The law is p^alpha in the limit of many moves, if one block holds the whole answer.

Texts y of different length choose a position with different probability, hence the factor |y|/|y'| in the ratio of
`variant=paper`. The authors' code lacks it, compares the new end with as many tokens of the old one only, and draws
new texts no longer than the old one: `variant=official`. It also ends where the prompt has EOS; this does not.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from harness.engine.session import Session
from harness.plugins.strategy import Guarantee, Request, Strategy, knob


class Text(NamedTuple):
    """The token ids of a text, and before each of them log Σ p^alpha over all tokens.

    The latter is alpha log p of the token minus its log probability in the proposal.
    """

    tokens: list[int]
    norms: list[Tensor]


@dataclass(frozen=True)
class PowerSampling(Strategy):
    """Identities: `moves=0` is `temperature:temperature=1/alpha`; `alpha=1` is plain sampling."""

    alpha: float = knob(4.0, "exponent of p", low=0.01, high=100, sweep=(1.0, 2.0, 4.0))
    moves: int = knob(10, "ends redrawn per block", low=0, high=10_000, sweep=(0, 2, 10))
    block: int = knob(192, "tokens added before each round of moves", low=1, high=1_000_000, sweep=(32, 192))
    variant: str = knob("paper", "rule for accepting a new end", choices=("paper", "official"),
                        sweep=("paper", "official"))

    paper: ClassVar[str] = "Karan and Du 2025, arXiv 2510.14901"
    family: ClassVar[str] = "sampling"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the text whole."""
        text = Text([], [])
        while not ended(request, text.tokens):
            limit = min(len(text.tokens) + self.block, request.max_new_tokens)
            text = self.extended(session, request, text, limit)
            for _ in range(self.moves if self.alpha != 1 else 0):  # with alpha = 1 every text has its law already
                text = self.moved(session, request, text, limit)
        yield text.tokens

    def extended(self, session: Session, request: Request, text: Text, limit: int) -> Text:
        """Draw tokens in proportion to p^alpha after a text until it ends or has `limit` tokens."""
        tokens, norms = list(text.tokens), list(text.norms)
        while len(tokens) < limit and not ended(request, tokens):
            session.follow([*request.prompt, *tokens])
            log_p = session.read().logits[0].double().log_softmax(-1)
            norms.append((self.alpha * log_p).logsumexp(-1))
            tokens.append(request.stream.choose((self.alpha * log_p).softmax(-1)))
        return Text(tokens, norms)

    def moved(self, session: Session, request: Request, text: Text, limit: int) -> Text:
        """Return a text of at most `limit` tokens with a new end, or the old one if it is rejected."""
        at = request.stream.choose(torch.ones(len(text.tokens)))
        most = limit if self.variant == "paper" else len(text.tokens)
        new = self.extended(session, request, Text(text.tokens[:at], text.norms[:at]), most)
        return new if request.stream.coin(math.exp(min(0.0, self.log_ratio(text, new, at)))) else text

    def log_ratio(self, old: Text, new: Text, at: int) -> float:
        """Return the log of the ratio of Metropolis and Hastings for a new end from position `at` on."""
        if self.variant == "official":
            return _sum(new.norms[at:]) - _sum(old.norms[at:len(new.norms)])
        return _sum(new.norms[at:]) - _sum(old.norms[at:]) + math.log(len(old.tokens) / len(new.tokens))


def ended(request: Request, tokens: Sequence[int]) -> bool:
    """Return whether a text has ended or is as long as the request allows."""
    return len(tokens) >= request.max_new_tokens or (bool(tokens) and request.ends(tokens))


def _sum(values: Sequence[Tensor]) -> float:
    return float(torch.stack(list(values)).sum()) if values else 0.0
