"""Several complete answers to one prompt: sampling them, computing their log p, and selecting one.

Answer 0 is what the other strategy alone generates. Answer i has a random stream of its own, or is the i-th hypothesis
of a search.
"""

import math
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from harness.decoding.search import Search
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import UserError
from harness.plugins.strategy import Over, Request, Strategy

T = TypeVar("T")

CHUNK = 256  # tokens scored by one forward: more rows of logits only take memory


def _never(tokens: Sequence[int]) -> bool:
    return False


class ManySamples(Over):
    """Makes its output from `n` answers of the other strategy.

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

    def max_samples(self) -> int | None:
        """Return the maximum number of samples, each of which needs `n` answers of the other strategy."""
        limit = self.over.max_samples()
        return None if limit is None else limit // self.n


class Chosen(ManySamples):
    """Samples `n` answers of the other strategy and returns one of them; with `n=1` it is the other strategy."""

    @abstractmethod
    def choose(self, session: Session, request: Request, answers: Sequence[list[int]]) -> int:
        """Return the index of the answer to commit; `answers` are token ids."""

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the chosen answer whole."""
        answers = drawn(session, request, self.over, self.n)
        yield answers[self.choose(session, request, answers) if self.n > 1 else 0]


def drawn(session: Session, request: Request, over: Strategy, n: int) -> list[list[int]]:
    """Return `n` answers of `over` to the prompt, as token ids; each ends where the runner would stop it.

    The answers depend on the request only. They are decoded in one batch from copies of the prompt, which is prefilled
    once; the answers of a search come from one search.
    """
    if isinstance(over, Search) and over.max_samples():
        hypotheses = over.search(session, request)
        return [list(hypotheses[min(request.sample * n + i, len(hypotheses) - 1)].tokens) for i in range(n)]
    requests = each(request, n)
    if n == 1:
        return [whole(session, requests[0], over)]
    prefill(session, request, over)
    return in_copies(session, [partial(_sample, request=one, over=over) for one in requests])


def prefill(session: Session, request: Request, over: Strategy) -> None:
    """Prefill the prompt in the model and in the draft model if `over` needs it, for copies to continue."""
    for prefilled in [session, *([session.draft] if "draft" in over.needs else [])]:
        prefilled.follow(request.prompt[:-1])  # not the last token, whose forward the strategy may hook
        if prefilled.tokens:
            prefilled.read()


def in_copies(session: Session, jobs: Sequence[Callable[[Session], T]]) -> list[T]:
    """Run `jobs` in one batch, each on a copy of the sequence of its own, and return their results in order.

    A job runs again if the KV cache had no room for all of them, so it must not use up a random stream: see `afresh`.
    """
    return session.run_batched([partial(_in_copy, session, job) for job in jobs])


def _in_copy(session: Session, job: Callable[[Session], T]) -> T:
    copy = session.fork()
    try:
        return job(copy)
    finally:
        copy.close()


def _sample(session: Session, request: Request, over: Strategy) -> list[int]:
    return whole(session, afresh(request), over)


def afresh(request: Request) -> Request:
    """Return the request with copies of its random streams."""
    return replace(request, stream=deepcopy(request.stream), shared=deepcopy(request.shared))


def each(request: Request, n: int) -> list[Request]:
    """Return the requests for `n` answers."""
    return [nth(request, i, request.sample * n + i) for i in range(n)]


def nth(request: Request, number: int, sample: int) -> Request:
    """Return the request for answer `number`: 0 keeps the random stream, others get a substream.

    Each answer gets its own copy of the current shared stream.
    """
    if number:
        return replace(request, stream=request.stream.branch(number), shared=deepcopy(request.common), sample=sample)
    return replace(request, shared=deepcopy(request.shared), sample=sample)


def whole(session: Session, request: Request, over: Strategy, until: Callable[[list[int]], bool] = _never
          ) -> list[int]:
    """Return all tokens that `over` generates for the request, up to EOS (kept), a stop string or the limit.

    `until` is asked after each token whether the answer ends with it.
    """
    tokens: list[int] = []
    for block in over.generate(session, request):
        for token in block:
            tokens.append(token)
            if until(tokens) or len(tokens) == request.max_new_tokens or request.ends(tokens):
                return tokens
    return tokens


def completed(session: Session, request: Request, over: Strategy, start: Sequence[int], number: int) -> list[int]:
    """Return answer `number`: the tokens `start`, continued by `over` unless they already end the answer."""
    if len(start) == request.max_new_tokens or request.ends(start):
        return list(start)
    return [*start, *whole(session, afresh(nth(request, number, request.sample)).behind(start), over)]


def log_p(session: Session, sequence: Sequence[int], tokens: Sequence[int]) -> Tensor:
    """Return log p (N,) in float64 of each of `tokens` after `sequence`, by the unwarped model."""
    def chosen(logits: Tensor, part: Sequence[int]) -> Tensor:
        own = logits.gather(1, torch.tensor(part, device=logits.device)[:, None])[:, 0]
        return own - logits.logsumexp(-1)
    return scored(session, sequence, tokens, chosen)


def scored(session: Session, sequence: Sequence[int], tokens: Sequence[int],
           score: Callable[[Tensor, Sequence[int]], Tensor]) -> Tensor:
    """Return (N,) in float64 what `score` gives for each of `tokens` after `sequence`.

    One forward computes the logits of up to CHUNK tokens: `score(logits, part)` (M,) gets those before each of the M
    tokens `part` (M, V), by the unwarped model.
    """
    session.follow(sequence)
    scores = [torch.empty(0, dtype=torch.float64)]
    for start in range(0, len(tokens), CHUNK):
        part = tokens[start:start + CHUNK]
        last = start + CHUNK >= len(tokens)
        logits = session.read(TokenTree.chain(part[:-1] if last else part)).logits[:len(part)]
        scores.append(score(logits, part).double().cpu())
        if not last:
            session.keep(range(len(part)))
    return torch.cat(scores)


def mean(values: Tensor) -> float:
    """Return the mean of log p; 0 without tokens."""
    return float(values.mean()) if len(values) else 0.0


def first_best(scores: Sequence[float]) -> int:
    """Return the index of the highest score; ties go to the first."""
    return max(range(len(scores)), key=scores.__getitem__)


def elected(votes: Sequence[str | None], weights: Sequence[float] | None = None) -> list[str]:
    """Return the answers with the largest sum of `weights` (by default the most votes), in order of appearance.

    None is no vote.
    """
    given = defaultdict[str, list[float]](list)
    for vote, weight in zip(votes, weights or [1.0] * len(votes), strict=True):
        if vote is not None:
            given[vote].append(weight)
    sums = {vote: math.fsum(each) for vote, each in given.items()}
    return [vote for vote, total in sums.items() if total == max(sums.values())]


def voted(session: Session, request: Request, answers: Sequence[list[int]], votes: Sequence[str | None],
          weights: Sequence[float]) -> int:
    """Return the index of the text of the largest weight among those with the elected answer; ties go to the first.

    `answers` are the texts as token ids, `votes` the answers in them. The answer with the largest sum of weights is
    elected; ties are broken by the summed probability of its texts, then by order. When no text has an answer, each is
    an answer of its own.
    """
    if not any(vote is not None for vote in votes):
        votes = [str(i) for i in range(len(answers))]
    best = elected(votes, weights)
    if len(best) > 1:
        scores = {i: log_p(session, request.prompt, answers[i]).sum() for i, vote in enumerate(votes) if vote in best}
        best = [best[first_best([float(torch.logsumexp(torch.stack([scores[i] for i in scores if votes[i] == vote]), 0))
                                 for vote in best])]]
    return max((i for i, vote in enumerate(votes) if vote == best[0]), key=weights.__getitem__)
