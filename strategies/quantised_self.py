"""Self-speculative decoding with coarse weights: drafts round the model's own weights to a few bits.

QSpec, Zhao et al. 2024 (arXiv 2410.11305), and QuantSpec, Tiwari et al. 2025 (arXiv 2502.10424). The model drafts
`gamma` tokens with the weights of its decoder layers rounded to `bits` bits, each `group` of neighbours in a row to
equal steps of its own, and verifies them with its own weights. Drafts read the keys and values of the unrounded model.
`temperature` and `p` set the distribution, which is exact: drafts are drawn under the same warps and accepted with
min(1, p/q).

QSpec also rounds the activations of drafts, and QuantSpec the KV cache; here neither is rounded. With 4 bits, groups of
32, 64, 128 or 256 and a bfloat16 model on a CPU with AVX, a draft forward is really faster. In all other cases it takes
as long as any forward: acceptance is measured, and what it would gain is not.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept, rejection
from harness.decoding.verified import Verified
from harness.engine.rounded_weights import RoundedWeights
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob
from strategies.drafters.self_chain import SelfChain


@dataclass(frozen=True)
class QuantisedSelf(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs.

    With 16 bits nothing is rounded, and every draft is accepted.
    """

    bits: int = knob(4, "bits of each weight in drafts; 16 rounds nothing", choices=(2, 3, 4, 8, 16),
                     sweep=(2, 3, 4, 8))
    group: int = knob(128, "neighbouring weights that are rounded together; 0 is a whole row", low=0, high=1000000,
                      sweep=(0, 32, 64, 128))
    gamma: int = knob(4, "tokens drafted per step", low=1, high=64, sweep=(2, 4, 8), also="num_assistant_tokens")

    paper: ClassVar[str] = "Zhao et al. 2024, arXiv 2410.11305"

    def drafter(self, session: Session, request: Request) -> SelfChain:
        """Return the model with rounded weights."""
        return SelfChain(session, RoundedWeights(self.bits, self.group), self.gamma, self.logit_warp(),
                         self.draws(request))

    def rule(self) -> Accept:
        """Accept with min(1, p/q)."""
        return rejection
