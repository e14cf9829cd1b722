"""Strategies with planted mistakes that `verify` must detect, and their correct counterparts."""

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
    """Samples the token after a fully accepted draft without temperature and nucleus."""

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        warp = self.logit_warp()

        def accept(tree: TokenTree, logits: Tensor, stream: Stream) -> tuple[list[int], int]:
            path, token = rejection(tree, warp(logits, []), stream)
            if len(path) == len(tree) > 0:
                token = stream.choose(logits[-1].softmax(-1))
            return path, token
        return draft_and_verify(session, self.drafter(session, request), accept, request)


@dataclass(frozen=True)
class SoftQ(Speculative):
    """Drafts the likeliest token but passes q as if it had been sampled from it."""

    def drafter(self, session: Session, request: Request) -> ModelChain:
        return ModelChain(session.draft, self.gamma, self.logit_warp(), Likeliest())


class _Siblings:
    resort = False

    def __init__(self, session: Session, gamma: int, warp: Warp, stream: Stream | None) -> None:
        self.session, self.gamma, self.warp, self.stream = session, gamma, warp, stream

    def draft(self, sequence: Sequence[int], last: Step, limit: int) -> TokenTree:
        assert self.stream is not None
        self.session.follow(sequence)
        q = torch.softmax(self.warp(self.session.read().logits, [sequence])[0].double(), -1)
        rest, tokens = q.clone(), list[int]()
        while len(tokens) < self.gamma and rest.sum() > 0:
            tokens.append(self.stream.choose(rest))
            rest[tokens[-1]] = 0
        if self.resort:
            tokens.sort(key=lambda token: -float(q[token]))
        return TokenTree(tuple(tokens), (ROOT,) * len(tokens), {ROOT: q})


@dataclass(frozen=True)
class Siblings(Speculative):
    """Correct: several first tokens drawn without replacement, verified in the order of drawing."""

    def drafter(self, session: Session, request: Request) -> Drafter:
        return _Siblings(session.draft, self.gamma, self.logit_warp(), self.draws(request))

    def rule(self) -> Accept:
        return rejection_without_replacement


class _Resorted(_Siblings):
    resort = True


@dataclass(frozen=True)
class Resorted(Siblings):
    """Verifies the likeliest of the drawn siblings first."""

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
    """Compares the draft with a sample of the target, and draws another sample when they differ."""

    def drafter(self, session: Session, request: Request) -> ModelChain:
        return ModelChain(session.draft, self.gamma, self.logit_warp(), None)

    def rule(self) -> Accept:
        return _discarding


@dataclass(frozen=True)
class WrongOnce(Speculative):
    """Outputs one wrong token, the ninth of an answer."""

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        written = 0
        for step in super().generate(session, request):
            yield [(token + 1) % 200 if written + i == 8 else token for i, token in enumerate(step)]
            written += len(step)


_seen = list[tuple[int, ...]]()


@dataclass(frozen=True)
class Leaky(Speculative):
    """Drafts a number of tokens that depends on earlier prompts."""

    def drafter(self, session: Session, request: Request) -> ModelChain:
        _seen.append(request.prompt)
        return ModelChain(session.draft, 1 + len(_seen) % 3, self.logit_warp(), self.draws(request))
