"""Strategies with a mistake that a report of losslessness must find, beside the ones that are right."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.decoding.accept import Accept, rejection, rejection_without_replacement
from harness.decoding.loop import Drafter, Step, draft_and_verify
from harness.engine.logit_warps import Warp
from harness.engine.random_stream import Likeliest, Stream
from harness.engine.session import Session
from harness.engine.tree import ROOT, TokenTree
from harness.plugins.strategy import Request
from strategies.drafters.chain import ModelChain
from strategies.speculative import Speculative


@dataclass(frozen=True)
class UnwarpedBonus(Speculative):
    """Draws the token after a draft that was accepted whole without temperature and nucleus."""

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        law = self.logit_warp()

        def accept(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
            path, token = rejection(tree, law(logits, []), stream)
            if len(path) == len(tree) > 0:
                token = stream.choose(logits[-1].softmax(-1))
            return path, token
        return draft_and_verify(session, self.drafter(session, request), accept, request)


@dataclass(frozen=True)
class SoftQ(Speculative):
    """Drafts the likeliest token but hands q over as if it had been drawn from it."""

    def drafter(self, session: Session, request: Request) -> ModelChain:
        return ModelChain(session.draft, self.gamma, self.logit_warp(), Likeliest())


class _Siblings:
    resort = False

    def __init__(self, session: Session, gamma: int, law: Warp, stream: Stream | None) -> None:
        self.session, self.gamma, self.law, self.stream = session, gamma, law, stream

    def draft(self, text: Sequence[int], last: Step, limit: int) -> TokenTree:
        assert self.stream is not None
        self.session.follow(text)
        q = torch.softmax(self.law(self.session.read().logits, [text])[0].double(), -1)
        left, tokens = q.clone(), list[int]()
        while len(tokens) < self.gamma and left.sum() > 0:
            tokens.append(self.stream.choose(left))
            left[tokens[-1]] = 0
        if self.resort:
            tokens.sort(key=lambda token: -float(q[token]))
        return TokenTree(tuple(tokens), (ROOT,) * len(tokens), {ROOT: q})


@dataclass(frozen=True)
class Siblings(Speculative):
    """Right: several first tokens drawn without replacement, tried in the order in which they were drawn."""

    def drafter(self, session: Session, request: Request) -> Drafter:
        return _Siblings(session.draft, self.gamma, self.logit_warp(), self.draws(request))

    def rule(self) -> Accept:
        return rejection_without_replacement


class _Resorted(_Siblings):
    resort = True


@dataclass(frozen=True)
class Resorted(Siblings):
    """Tries the likeliest of the drawn siblings first."""

    def drafter(self, session: Session, request: Request) -> Drafter:
        return _Resorted(session.draft, self.gamma, self.logit_warp(), self.draws(request))


def _discarding(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
    path = list[int]()
    for node, token in enumerate(tree.tokens):
        if stream.choose(logits[node].softmax(-1)) != token:
            break
        path.append(node)
    return path, stream.choose(logits[len(path)].softmax(-1))


@dataclass(frozen=True)
class Discarded(Speculative):
    """Compares the draft with a sample of the target, and draws another one when they differ."""

    def drafter(self, session: Session, request: Request) -> ModelChain:
        return ModelChain(session.draft, self.gamma, self.logit_warp(), None)

    def rule(self) -> Accept:
        return _discarding


@dataclass(frozen=True)
class WrongOnce(Speculative):
    """Writes one wrong token, as the ninth of an answer that is long enough."""

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        written = 0
        for step in super().generate(session, request):
            yield [(token + 1) % 200 if written + i == 8 else token for i, token in enumerate(step)]
            written += len(step)


_seen = list[tuple[int, ...]]()


@dataclass(frozen=True)
class Leaky(Speculative):
    """Drafts less the more prompts it has seen."""

    def drafter(self, session: Session, request: Request) -> ModelChain:
        _seen.append(request.prompt)
        return ModelChain(session.draft, 1 + len(_seen) % 3, self.logit_warp(), self.draws(request))
