"""Speculative decoding: a draft model proposes a few tokens, and the target verifies them in one forward.

Leviathan et al. 2022 (arXiv 2211.17192) and Chen et al. 2023 (arXiv 2302.01318). `gamma` tokens are drafted a step;
`temperature` and `p` set the distribution, which is the target's own: drafts are drawn from the draft model under the
same warps and accepted with min(1, p/q). `verify` "block" verifies the drafts of a step together, not one by one:
same distribution, and more are accepted (Sun et al. 2024, arXiv 2403.10444). `policy` sets the length of each
draft: "confidence" stops where the draft model is unsure and "ema" moves that `threshold` (Zhang et al. 2023, arXiv
2309.08168); "heuristic" goes up by two and down by one as in transformers; "cost" weighs acceptance so far against
`cost`. Three more go by the load, the number of sequences in the batch and of tokens in this one: "table" looks it up
in `table`, whose entries BATCH:LENGTH hold from that batch size on and BATCH@TOKENS:LENGTH from that many tokens on too
(the last one that fits counts; vLLM has such a table of batch sizes); "goodput" is "cost" with the time of a forward
under that load (Liu et al. 2024, arXiv 2406.14066). "tetris" drafts `gamma` tokens of each sequence, and the whole
batch verifies as many as by "table", those likeliest to be accepted (Wu et al. 2025, arXiv 2502.15197); choose a larger
`gamma`. A length of 0 drafts nothing. With these three, counts and draws repeat only with the same `--concurrency`, as
what is drafted depends on the other sequences in the batch.
"""

from dataclasses import dataclass
from typing import ClassVar

from harness.decoding.accept import Accept, block, rejection
from harness.decoding.verified import Verified
from harness.engine.session import Session
from harness.plugins.strategy import Need, Request, knob
from strategies.drafters.chain import ModelChain
from strategies.drafters.load import TABLE, Load, entries
from strategies.drafters.policies import POLICIES, length


@dataclass(frozen=True)
class Speculative(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    gamma: int = knob(4, "tokens drafted per step: at first with policy heuristic, at most with the others", low=1,
                      high=64, sweep=(1, 2, 3, 4, 5, 8, 12), also="num_assistant_tokens")
    verify: str = knob("token", "verify drafts one by one or as a block", choices=("token", "block"),
                       sweep=("token", "block"))
    policy: str = knob("fixed", "how many tokens are drafted", choices=POLICIES, sweep=POLICIES)
    threshold: float = knob(0.4, "confidence and ema stop drafting below this probability", low=0, high=1,
                            sweep=(0.0, 0.2, 0.4, 0.6, 0.8), also="assistant_confidence_threshold")
    cost: float = knob(0.1, "for cost and goodput: time of a draft forward / time of a target forward", low=0, high=10,
                       sweep=(0.01, 0.05, 0.1, 0.2))
    table: str = knob("", f"for policies table and tetris: draft lengths by load; {TABLE} if none is given",
                      sweep=("1:4;32:3;64:1;128:0", "1:4;8:2;16:1;32:0"))

    paper: ClassVar[str] = "Leviathan et al. 2022, arXiv 2211.17192"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def __post_init__(self) -> None:
        """Refuse a table that is none."""
        super().__post_init__()
        entries(self.name, self.table or TABLE)

    def drafter(self, session: Session, request: Request) -> ModelChain:
        """Return the draft model, one token at a time."""
        policy = length(self.policy, self.gamma, self.threshold, self.cost, entries(self.name, self.table or TABLE),
                        Load(session))
        return ModelChain(session.draft, policy, self.logit_warp(), self.draws(request))

    def rule(self) -> Accept:
        """Accept with min(1, p/q), or by block verification."""
        return block if self.verify == "block" else rejection
