"""PEARL: draft the next tokens while the target still verifies the last ones.

Liu et al. 2024 (arXiv 2408.11850). Two workers meet at a barrier each step: the draft model writes `gamma` tokens ahead
while the target judges what it was given at the last barrier and, with its last row, the first of the new ones. A
rejection throws the tokens ahead away; there is no bonus token. `temperature` and `p` set the distribution, which is
exact. With `workers=1` the two are modelled, one after the other: tokens and counts are those of two workers, the time
is not, which would be the longer of the two sides at each step. With `workers=2` the draft model runs in a thread of
its own and the time is real: it pays where each worker has a device, or cores enough for its torch threads; on one core
they take turns. Where that cannot be they go one after the other all the same: with several sequences in one batch,
whose forwards are merged in one thread, and with one model that is both target and draft.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from harness.decoding.accept import Accept, at, rejection
from harness.decoding.loop import Step
from harness.decoding.verified import Verified
from harness.engine.session import Reading, Session
from harness.engine.tree import EMPTY, Prefixes, TokenTree
from harness.plugins.strategy import Need, Request, knob
from strategies.drafters.chain import ModelChain

Job = Callable[[], TokenTree]


@dataclass(frozen=True)
class Pearl(Verified):
    """Lossless at temperature 0; above it the output distribution is that of `top_p` with the same knobs."""

    gamma: int = knob(4, "tokens drafted per step; best near target time / draft time", low=1, high=64,
                      sweep=(2, 3, 4, 5, 8))
    workers: int = knob(1, "1: sequential, simulating two; 2: the draft model has a thread", choices=(1, 2))

    paper: ClassVar[str] = "Liu et al. 2024, arXiv 2408.11850"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def drafter(self, session: Session, request: Request) -> ModelChain:
        """The draft model, one token at a time."""
        return ModelChain(session.draft, self.gamma, self.logit_warp(), self.draws(request))

    def rule(self) -> Accept:
        """min(1, p/q)."""
        return rejection

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield what is certain after each barrier: the accepted tokens, and after a rejection the target's own."""
        drafter, text = self.drafter(session, request), list(request.prompt)
        end = len(text) + request.max_new_tokens
        session.follow(text)
        last = Step(EMPTY, session.read(), (), 0)
        block, waiting = self._judged(session, request, text, last.reading, EMPTY, EMPTY)
        with _beside(self._apart(session)) as start:
            while True:
                text = [*text, *block]
                yield block
                drafted = start(partial(drafter.draft, [*text, *waiting.tokens], last, end - len(text) - len(waiting)))
                session.follow(text)
                reading = session.read(waiting)
                ahead = drafted()  # the barrier: the check below draws from the stream that the draft drew from
                block, waiting = self._judged(session, request, text, reading, waiting, ahead)

    def _judged(self, session: Session, request: Request, text: list[int], reading: Reading, waiting: TokenTree,
                ahead: TokenTree) -> tuple[list[int], TokenTree]:
        """Commit what is right; the tokens that are certain now, and those that wait to be read."""
        logits, judged = self.logit_warp()(reading.logits, Prefixes(text, waiting)), _joined(waiting, ahead)
        if ahead.tokens:  # what is said after the first token ahead is not known yet, and never used
            logits = torch.cat([logits, logits[-1:]])
        path, token = at(self.temperature, self.rule())(judged, logits, request.stream)
        session.keep(path[:len(waiting)])
        block = [judged.tokens[node] for node in path]
        if not ahead.tokens or len(path) < len(judged):
            return [*block, token], EMPTY
        return block, TokenTree.chain(ahead.tokens[1:], [ahead.probs[i] for i in range(len(ahead.probs) - 1)])

    def _apart(self, session: Session) -> bool:
        """Whether draft and target are to be read at the same time, and may be."""
        if self.workers == 1:
            return False
        target, draft = session.engine, session.draft.engine
        return target.model is not draft.model and not target.merging and not draft.merging


@contextmanager
def _beside(apart: bool) -> Iterator[Callable[[Job], Job]]:
    """How to start a draft, which gives how to wait for it: in a thread, which has ended afterwards, or at once."""
    if not apart:
        yield _at_once
        return
    inference, settings = torch.is_inference_mode_enabled(), copy_context()

    def work(job: Job) -> TokenTree:
        with torch.inference_mode(inference):
            return settings.run(job)
    # torch counts threads, and knows how it was told to compile, for each thread apart
    with ThreadPoolExecutor(1, "draft", torch.set_num_threads, (torch.get_num_threads(),)) as thread:
        yield lambda job: thread.submit(work, job).result


def _at_once(job: Job) -> Job:
    tree = job()
    return lambda: tree


def _joined(waiting: TokenTree, ahead: TokenTree) -> TokenTree:
    """The chain that waits and the first token of the next."""
    probs = [tree.probs[i - 1] for tree, count in ((waiting, len(waiting)), (ahead, 1)) for i in range(count)
             if i - 1 in tree.probs]
    return TokenTree.chain([*waiting.tokens, *ahead.tokens[:1]], probs)
