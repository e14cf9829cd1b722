"""Self-speculative decoding: the model drafts with some of its sublayers skipped, and verifies with all of them.

Zhang et al. 2023, Draft & Verify (arXiv 2309.08168). `share` of the attention and MLP sublayers are left out, evenly
spread, never those of the first and last layer (the paper searches for them offline). At most `gamma` tokens are
drafted a step; drafting stops after a token whose probability is below `theta`, which `adapt` moves towards an
acceptance of 0.9 (the authors start it at 0.5 for sampling). `temperature` and `p` set the distribution, which is
exact: drafts are drawn under the same warps and accepted with min(1, p/q).

Drafts read the keys and values that the whole model wrote, so there is no second cache and no second prompt to read.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept, rejection
from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob
from strategies.drafters.self_chain import SelfChain
from strategies.drafters.sublayers import spread


@dataclass(frozen=True)
class LayerSkip(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    share: float = knob(0.45, "of the sublayers between the first and the last layer, left out of drafts", low=0,
                        high=1, sweep=(0.3, 0.45, 0.5))
    gamma: int = knob(8, "tokens drafted per step at most", low=1, high=64, sweep=(6, 8, 12),
                      also="num_assistant_tokens")
    theta: float = knob(0.8, "drafting stops after a token less probable than this", low=0, high=1,
                        sweep=(0.5, 0.6, 0.8))
    adapt: bool = knob(True, "let theta follow acceptance", sweep=(False, True))

    paper: ClassVar[str] = "Zhang et al. 2023, arXiv 2309.08168"

    def drafter(self, session: Session, request: Request) -> SelfChain:
        """The model without some of its sublayers."""
        hook = spread(len(session.engine.parts.layers), self.share)
        return SelfChain(session, hook, self.gamma, self.logit_warp(), self.draws(request), self.theta, self.adapt)

    def rule(self) -> Accept:
        """min(1, p/q)."""
        return rejection
