"""Several complete answers to one prompt: sampling them, computing their log p, and selecting one.

Answer 0 is what the other strategy alone generates. Answer i has a random stream of its own, or is the i-th hypothesis
of a search.
"""

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from harness.decoding.search import Search
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import UserError
from harness.plugins.strategy import Over, Request, Strategy

CHUNK = 256  # tokens scored by one forward: more rows of logits only take memory


class Chosen(Over):
    """Samples `n` answers of the other strategy and returns one of them; with `n=1` it is the other strategy.

    A strategy of this kind starts its knobs with `n`. Raises `UserError` when the other strategy has fewer answers.
    """

    n: int

    family: ClassVar[str] = "many-samples"

    def __post_init__(self) -> None:
        """Raise `UserError` when the other strategy gives fewer than `n` answers."""
        super().__post_init__()
        if (limit := self.over.max_samples()) is not None and limit < self.n:
            raise UserError(f"{self.name} needs n={self.n} answers but {self.over.spec()} gives at most {limit}: "
                            "lower n.")

    @abstractmethod
    def choose(self, session: Session, request: Request, answers: Sequence[list[int]]) -> int:
        """Return the index of the answer to commit; `answers` are token ids."""

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the chosen answer whole."""
        answers = drawn(session, request, self.over, self.n)
        yield answers[self.choose(session, request, answers) if self.n > 1 else 0]

    def max_samples(self) -> int | None:
        """Return the maximum number of samples, each of which needs `n` answers of the other strategy."""
        limit = self.over.max_samples()
        return None if limit is None else limit // self.n


def drawn(session: Session, request: Request, over: Strategy, n: int) -> list[list[int]]:
    """Return `n` answers of `over` to the prompt, as token ids; each ends where the runner would stop it.

    The answers depend on the request only. They are decoded in one batch from copies of the prompt, which is prefilled
    once; the answers of a search come from one search.
    """
    if isinstance(over, Search) and over.max_samples():
        hypotheses = over.search(session, request)
        return [list(hypotheses[min(request.sample * n + i, len(hypotheses) - 1)].tokens) for i in range(n)]
    requests = [nth(request, i, request.sample * n + i) for i in range(n)]
    if n == 1:
        return [whole(session, requests[0], over)]
    for prefilled in [session, *([session.draft] if "draft" in over.needs else [])]:
        prefilled.follow(request.prompt[:-1])  # not the last token, whose forward the strategy may hook
        if prefilled.tokens:
            prefilled.read()
    return session.run_batched([partial(_copied, session, request, over) for request in requests])


def _copied(session: Session, request: Request, over: Strategy) -> list[int]:
    copy = session.fork()
    try:
        return whole(copy, request, over)
    finally:
        copy.close()


def nth(request: Request, number: int, sample: int) -> Request:
    """Return the request for answer `number`: 0 keeps the random stream, others get a substream.

    Each answer gets its own copy of the current shared stream.
    """
    if number:
        return replace(request, stream=request.stream.branch(number), shared=deepcopy(request.common), sample=sample)
    return replace(request, shared=deepcopy(request.shared), sample=sample)


def whole(session: Session, request: Request, over: Strategy) -> list[int]:
    """Return all tokens that `over` generates for the request, up to EOS (kept), a stop string or the limit."""
    tokens: list[int] = []
    for block in over.generate(session, request):
        for token in block:
            tokens.append(token)
            if len(tokens) == request.max_new_tokens or request.ends(tokens):
                return tokens
    return tokens


def log_p(session: Session, sequence: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """Return log p (N,) in float64 of each of `tokens` after `sequence`, by the unwarped model.

    One forward scores up to CHUNK tokens.
    """
    session.follow(sequence)
    scores = [torch.empty(0, dtype=torch.float64)]
    for start in range(0, len(tokens), CHUNK):
        part = tokens[start:start + CHUNK]
        last = start + CHUNK >= len(tokens)
        logits = session.read(TokenTree.chain(part[:-1] if last else part)).logits[:len(part)]
        chosen = logits.gather(1, torch.tensor(part, device=logits.device)[:, None])[:, 0]
        scores.append((chosen - logits.logsumexp(-1)).double().cpu())
        if not last:
            session.keep(range(len(part)))
    return torch.cat(scores)


def mean(values: Tensor) -> float:
    """Return the mean of log p; 0 without tokens."""
    return float(values.mean()) if len(values) else 0.0


def first_best(scores: Sequence[float]) -> int:
    """Return the index of the highest score; ties go to the first."""
    return max(range(len(scores)), key=scores.__getitem__)


def elected(votes: Sequence[str | None]) -> list[str]:
    """Return the answers with the most votes, in order of appearance; None is no vote."""
    counts = Counter(vote for vote in votes if vote is not None)
    return [vote for vote, count in counts.items() if count == max(counts.values())]
