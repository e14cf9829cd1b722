"""Speculative decoding with a draft model of another vocabulary: drafts are tokens that both models have.

Token-level intersection, Timor et al. 2025 (arXiv 2502.05202), and transformers. `gamma` tokens are drafted a step. The
draft model's logits of tokens that the target lacks become −inf, so that its distribution q over the others adds up
to one; drafts are drawn from q and accepted with min(1, p/q). Tokens of the target that the draft model lacks are only
written by the target, and become several tokens of the same text when the draft model reads them, each the longest that
fits. Tokens are the same if their texts are, blanks included, and so are the EOS and BOS of both.

`temperature` and `p` set the distribution, which is exact: drafts are drawn under the same warps. Its cost is that of
`speculative`; the larger the part of the draft model's probability on tokens that both have, the more is accepted.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept, rejection
from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.plugins.strategy import Need, Request, knob
from strategies.drafters.chain import ModelChain
from strategies.drafters.translated import chain


@dataclass(frozen=True)
class Tli(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs.

    With a draft model of the same vocabulary it is `speculative`.
    """

    gamma: int = knob(4, "tokens drafted per step", low=1, high=64, sweep=(1, 2, 3, 4, 5, 8, 12),
                      also="num_assistant_tokens")

    paper: ClassVar[str] = "Timor et al. 2025, arXiv 2502.05202"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})
    translates: ClassVar[bool] = True

    def drafter(self, session: Session, request: Request) -> ModelChain:
        """Return the draft model, one token at a time."""
        return chain(session, self.gamma, self.logit_warp(), self.draws(request))

    def rule(self) -> Accept:
        """Accept with min(1, p/q)."""
        return rejection
