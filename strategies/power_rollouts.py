"""Power sampling by rollouts: draw each token in proportion to p^alpha times the estimated p^alpha of what follows.

Ji et al., Scalable Power Sampling, 2026 (arXiv 2601.21590, §3). p(text)^alpha makes a token as likely as p^alpha of the
token times ζ, the sum of p^alpha over all its continuations, which is the mean of p^(alpha − 1) over continuations
drawn from p. For each of the `candidates` likeliest tokens, `rollouts` continuations of at most `horizon` tokens are
drawn, all of them in one batch. The jackknife reduces the bias that dividing by the sum of the estimates has.

p^(alpha − 1) of a long text varies so much that one rollout decides its mean; log p is summed over the rollout as in
the paper, where a port to be found online divides it by the length, which is another law. The authors' code was not
read; numbers of candidates, rollouts and horizon are those of that port.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.search import best
from harness.engine.random_stream import Stream
from harness.engine.session import Session
from harness.engine.tree import ROOT
from harness.plugins.strategy import Guarantee, Request, Strategy, knob


@dataclass(frozen=True)
class PowerRollouts(Strategy):
    """Identities: `rollouts=0` or `horizon=0` is `top_k` at temperature 1/alpha; with `alpha=1` too, plain `top_k`."""

    alpha: float = knob(4.0, "exponent of p", low=0.01, high=100, sweep=(1.0, 2.0, 4.0))
    candidates: int = knob(8, "next tokens considered, the likeliest", low=1, high=1024, sweep=(4, 8, 32))
    rollouts: int = knob(8, "continuations drawn after each of them", low=0, high=1024, sweep=(0, 2, 8))
    horizon: int = knob(192, "tokens of a continuation at most", low=0, high=1_000_000, sweep=(8, 32, 192))

    paper: ClassVar[str] = "Ji et al. 2026, arXiv 2601.21590"
    family: ClassVar[str] = "sampling"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield one drawn token a step."""
        text = list[int]()
        while True:
            session.follow([*request.prompt, *text])
            log_p = session.read().logits[0].double().log_softmax(-1)
            tokens = best(log_p, self.candidates)  # (K,)
            futures = self.futures(session, request, text, tokens.tolist())
            probs = jackknife(self.alpha * log_p[tokens], futures)
            text.append(request.stream.choose(torch.zeros_like(log_p).index_copy(0, tokens, probs)))
            yield text[-1:]

    def futures(self, session: Session, request: Request, text: list[int], tokens: list[int]) -> Tensor:
        """Return (K, M) (alpha − 1) log p of the M rollouts after each of the K `tokens` that may follow `text`."""
        log_p = torch.zeros(len(tokens), self.rollouts, dtype=torch.float64, device=session.engine.device)
        steps = min(self.horizon, request.max_new_tokens - len(text) - 1)
        live = [(k, m, [*text, token]) for k, token in enumerate(tokens) for m in range(self.rollouts)
                if not request.ends([*text, token])]
        if not (live and steps > 0 and self.alpha != 1):  # then all continuations weigh the same
            return log_p
        logits = session.grow(tokens, [ROOT] * len(tokens)).logits[1:]
        rows, nodes = [k for k, _, _ in live], [k for k, _, _ in live]
        for step in range(steps):
            drawn, values = draw(logits[rows].double().log_softmax(-1), request.stream)
            log_p[[k for k, _, _ in live], [m for _, m, _ in live]] += values
            news = drawn.tolist()
            going = [i for i, (_, _, done) in enumerate(live) if not request.ends([*done, news[i]])]
            live = [(*live[i][:2], [*live[i][2], news[i]]) for i in going]
            if not live or step + 1 == steps:
                break
            parents = [nodes[i] for i in going]
            session.retain(sorted(set(parents)))
            first = session.nodes
            logits = session.grow([done[-1] for _, _, done in live], parents).logits[1:]
            rows, nodes = list(range(len(live))), list(range(first, first + len(live)))
        return (self.alpha - 1) * log_p


def draw(log_p: Tensor, stream: Stream) -> tuple[Tensor, Tensor]:
    """Draw a token from each row (N, V); returns the tokens (N,) and their log p (N,)."""
    total = log_p.exp().cumsum(-1)
    drawn = torch.searchsorted(total, stream.uniform(len(log_p), log_p.device)[:, None] * total[:, -1:], right=True)
    drawn = drawn.clamp_max(log_p.shape[-1] - 1)
    return drawn[:, 0], log_p.gather(-1, drawn)[:, 0]


def jackknife(scores: Tensor, futures: Tensor) -> Tensor:
    """Return the probabilities (K,) of candidates with log weights `scores` (K,) and those of M futures each (K, M).

    The estimate from all futures, less the bias that estimates without one of them show.
    """
    count = futures.shape[1]
    if count == 0:
        return scores.softmax(-1)
    whole = (scores + futures.logsumexp(-1)).softmax(-1)
    if count == 1:
        return whole
    left_out = torch.eye(count, dtype=torch.bool, device=futures.device)
    others = (scores + futures.masked_fill(left_out[:, None], -torch.inf).logsumexp(-1)).softmax(-1)  # (M, K)
    better = (count * whole - (count - 1) * others.mean(0)).clamp_min(0)
    return better / better.sum()
