"""Self-speculative decoding for long sequences: drafts read only the first tokens and a window of the KV cache.

MagicDec, Chen et al. 2024 (arXiv 2408.11049), with the KV cache of StreamingLLM for drafts. The whole model drafts
`gamma` tokens, but its attention reads only the keys and values of the first `sinks` tokens and of the last `window`
ones; it verifies them with all keys and values. Keys keep their positions in the whole sequence, while StreamingLLM
counts positions within the window. `temperature` and `p` set the distribution, which is exact: drafts are drawn under
the same warps and accepted with min(1, p/q).

A draft forward still reads all weights, so this pays only where the keys and values of a sequence, or of all sequences
in the batch, are more bytes than the weights.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept, rejection
from harness.decoding.verified import Verified
from harness.engine.attention_hooks import AttendToEnds
from harness.engine.session import Session
from harness.plugins.strategy import Request, knob
from strategies.drafters.self_chain import SelfChain


@dataclass(frozen=True)
class WindowedSelf(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs.

    Every draft is accepted as long as the sequence has at most `sinks` + `window` tokens.
    """

    sinks: int = knob(4, "tokens at the start of the sequence that drafts read", low=0, high=1024, sweep=(0, 1, 4))
    window: int = knob(252, "last tokens of the sequence that drafts read", low=1, high=1000000,
                       sweep=(60, 124, 252, 508, 1020, 4092))
    gamma: int = knob(6, "tokens drafted per step", low=1, high=64, sweep=(2, 4, 5, 6, 7),
                      also="num_assistant_tokens")

    paper: ClassVar[str] = "Chen et al. 2024, arXiv 2408.11049"

    def drafter(self, session: Session, request: Request) -> SelfChain:
        """Return the model with a part of its KV cache."""
        return SelfChain(session, AttendToEnds(self.sinks, self.window), self.gamma, self.logit_warp(),
                         self.draws(request))

    def rule(self) -> Accept:
        """Accept with min(1, p/q)."""
        return rejection
