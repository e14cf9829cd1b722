"""Superposed decoding: k drafts from one forward per step, whose input is a mixture of their last tokens.

Shen et al. 2024 (arXiv 2405.18400). Each draft i has a score; the model's next input is the sum of the embeddings of
their last tokens, weighted by the softmax of the scores. The `m` likeliest tokens, at `temperature`, are the same for
all drafts; of all continuations the `k` best survive and those that end go to a pool of k. With a `store` (see
`rest`) its n-grams distinguish drafts: a token adds (1 − alpha) · log p + alpha · log q to its draft's score, q
given the last 1 to 5 tokens. Sample i of a prompt is the i-th best by score / length. Scores come from a sharpened
distribution and a mixed context: they are not likelihoods, and drafts get worse after about 15 tokens.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor

from harness.engine.hooks import ModelParts, replaced
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.strategy import Guarantee, Request, Strategy, knob
from strategies.drafters.store import Store, named
from strategies.parts.candidates import likeliest
from strategies.parts.corpus import Floats, followed

UNKNOWN = 200.0  # subtracted when none of the tokens follows the draft in the store


class Draft(NamedTuple):
    """A continuation and the sum of its tokens' scores."""

    tokens: tuple[int, ...] = ()
    score: float = 0.0

    @property
    def rank(self) -> float:
        """Return the score per token; the authors sort by exp of its negative."""
        return self.score / len(self.tokens)


@dataclass(frozen=True)
class Mixed:
    """A hook that replaces the input by the weighted sum of the embeddings of `tokens`."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[None]:
        """Replace the embedding for one forward."""
        own = parts.embedding.forward

        def mixed(ids: Tensor) -> Tensor:
            vectors = own(torch.tensor(self.tokens, device=ids.device))
            mixture = torch.tensor(self.weights, device=ids.device) @ vectors.float()
            return mixture.to(vectors.dtype).expand(*ids.shape, -1)
        with replaced({parts.embedding: mixed}):
            yield


@dataclass(frozen=True)
class Superposed(Strategy):
    """A search: all tokens come at once. Identity: `k=1` is `greedy` until that ends; `alpha=0` needs no store."""

    k: int = knob(3, "drafts", low=1, high=64, sweep=(2, 3, 4, 5, 10))
    m: int = knob(0, "likeliest tokens considered, at least 2k; 0 is 3k", low=0, high=1024, sweep=(0, 6, 9))
    temperature: float = knob(0.06, "divides the logits", low=0.001, high=10, sweep=(0.04, 0.06, 0.1, 0.12, 0.2))
    alpha: float = knob(0.54, "weight of the store's n-grams", low=0, high=1, sweep=(0.3, 0.48, 0.54, 0.62, 0.7))
    store: str = knob("none", "texts with n-grams that rank drafts: none, nano or the file of a store", file=True)

    paper: ClassVar[str] = "Shen et al. 2024, arXiv 2405.18400"
    family: ClassVar[str] = "search"
    guarantee: ClassVar[Guarantee] = "changes-output"

    def __post_init__(self) -> None:
        """Refuse fewer tokens than the first step needs."""
        super().__post_init__()
        if 0 < self.m < 2 * self.k:
            raise UserError(f"superposed: {self.k} drafts need at least {2 * self.k} tokens; give m={3 * self.k} or 0.")

    def generate(self, session: Session, request: Request) -> Iterator[tuple[int, ...]]:
        """Yield the chosen draft all at once."""
        drafts = self.search(session, request)
        yield drafts[min(request.sample, len(drafts) - 1)].tokens

    def max_samples(self) -> int:
        """One a draft."""
        return self.k

    def search(self, session: Session, request: Request) -> list[Draft]:
        """Return up to k drafts, the best first."""
        store = named(self.store, self.name, session) if self.store != "none" and self.alpha else None
        sequence, live, ended, hook = list(request.prompt), [Draft()], list[Draft](), None
        while True:
            session.follow(sequence)
            grown = self.grown(live, session.read(hook=hook).logits[0], request.prompt, store)
            ends = [request.ends(draft.tokens) for draft in grown]
            ended += [draft for draft, end in zip(grown, ends, strict=True) if end]
            ended = sorted(ended, key=lambda draft: -draft.score)[:self.k]
            live = [draft for draft, end in zip(grown, ends, strict=True) if not end][:self.k]
            if not live or len(live[0].tokens) == request.max_new_tokens or self._settled(live[0], ended, request):
                return sorted([*live, *ended], key=lambda draft: -draft.rank)[:self.k]
            shares = mixture(live)
            sequence.append(max(shares, key=lambda token: shares[token]))
            hook = Mixed(tuple(shares), tuple(shares.values())) if len(shares) > 1 else None

    def grown(self, live: Sequence[Draft], logits: Tensor, prompt: Sequence[int], store: Store | None) -> list[Draft]:
        """Return the 2k best extensions of the drafts by one token, given logits (V,); ties by draft, then token."""
        tokens = likeliest(logits, self.m or 3 * self.k)[1]
        log_p = (logits[tokens].double() / self.temperature).log_softmax(-1).cpu().numpy()
        scored = list[tuple[float, int, int]]()
        for i, draft in enumerate(live):
            gain = log_p if store is None else self._mixed(log_p, store, [*prompt, *draft.tokens], tokens)
            scored += [(-draft.score - float(more), i, token) for more, token in zip(gain, tokens, strict=True)]
        best = sorted(child for child in scored if child[0] < np.inf)[:2 * self.k]
        return [Draft((*live[i].tokens, token), -score) for score, i, token in best]

    def _mixed(self, log_p: Floats, store: Store, sequence: Sequence[int], tokens: Sequence[int]) -> Floats:
        """Compute (M,) the score of each token after the draft that ends `sequence`."""
        with np.errstate(divide="ignore"):
            log_q = np.log(followed(store, sequence, tokens))
        if np.isneginf(log_q).all():
            return (1 - self.alpha) * log_p - UNKNOWN
        return (1 - self.alpha) * log_p + self.alpha * log_q

    def _settled(self, best: Draft, ended: Sequence[Draft], request: Request) -> bool:
        """Return whether no live draft can overtake the ended ones; `best` is the likeliest, and scores only fall."""
        return len(ended) == self.k and best.score / request.max_new_tokens < min(draft.rank for draft in ended)


def mixture(drafts: Sequence[Draft]) -> dict[int, float]:
    """Return the share of every last token in the mixture; shares add up to 1."""
    shares = dict[int, float]()
    scores = torch.tensor([draft.score for draft in drafts], dtype=torch.float64)
    for draft, share in zip(drafts, scores.softmax(-1).tolist(), strict=True):
        shares[draft.tokens[-1]] = shares.get(draft.tokens[-1], 0.0) + share
    return shares
