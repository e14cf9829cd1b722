"""PEARL: draft the next tokens while the target still verifies the last ones.

Liu et al. 2024 (arXiv 2408.11850). Two workers meet at a barrier each step: the draft model drafts `gamma` tokens ahead
while the target verifies the draft of the last barrier and, with its last logits, the first of the new tokens. A
rejection discards the tokens ahead; there is no bonus token. `temperature` and `p` set the distribution, which is
exact. With `workers=1` the two run one after the other: tokens and counts are those of two workers, the time is not.
With `workers=2` the draft model has its own thread and the time is real. This pays when each worker has a device, or
cores enough for its torch threads; on one core they take turns. Several sequences in one batch, whose forwards are
merged in one thread, and a single model as target and draft always run one after the other.
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
                      sweep=(2, 3, 4, 5, 8), also="num_assistant_tokens")
    workers: int = knob(1, "1: sequential, simulating two; 2: the draft model has a thread", choices=(1, 2))

    paper: ClassVar[str] = "Liu et al. 2024, arXiv 2408.11850"
    needs: ClassVar[frozenset[Need]] = frozenset({"draft"})

    def drafter(self, session: Session, request: Request) -> ModelChain:
        """Return the draft model, one token at a time."""
        return ModelChain(session.draft, self.gamma, self.logit_warp(), self.draws(request))

    def rule(self) -> Accept:
        """Accept with min(1, p/q)."""
        return rejection

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the tokens decided at each barrier: the accepted ones, and after a rejection the target's own."""
        drafter, sequence = self.drafter(session, request), list(request.prompt)
        end = len(sequence) + request.max_new_tokens
        session.follow(sequence)
        last = Step(EMPTY, session.read(), (), 0)
        block, waiting = self._verified(session, request, sequence, last.reading, EMPTY, EMPTY)
        with _draft_starter(self._parallel(session)) as start:
            while True:
                sequence = [*sequence, *block]
                yield block
                room = end - len(sequence) - len(waiting)
                drafted = start(partial(drafter.draft, [*sequence, *waiting.tokens], last, room))
                session.follow(sequence)
                reading = session.read(waiting)
                ahead = drafted()  # the barrier: `_verified` samples from the same stream as the draft
                block, waiting = self._verified(session, request, sequence, reading, waiting, ahead)

    def _verified(self, session: Session, request: Request, sequence: list[int], reading: Reading, waiting: TokenTree,
                  ahead: TokenTree) -> tuple[list[int], TokenTree]:
        """Commit the accepted tokens; return the decided ones, and those that wait for the next forward."""
        logits, draft = self.logit_warp()(reading.logits, Prefixes(sequence, waiting)), _joined(waiting, ahead)
        if ahead.tokens:  # logits after the first token ahead are unknown, and never used
            logits = torch.cat([logits, logits[-1:]])
        path, token = at(self.temperature, self.rule())(draft, logits, request.stream)
        session.keep(path[:len(waiting)])
        block = [draft.tokens[node] for node in path]
        if not ahead.tokens or len(path) < len(draft):
            return [*block, token], EMPTY
        return block, TokenTree.chain(ahead.tokens[1:], [ahead.probs[i] for i in range(len(ahead.probs) - 1)])

    def _parallel(self, session: Session) -> bool:
        """Return whether draft and target should and can run at the same time."""
        if self.workers == 1:
            return False
        target, draft = session.engine, session.draft.engine
        return target.model is not draft.model and not target.merging and not draft.merging


@contextmanager
def _draft_starter(parallel: bool) -> Iterator[Callable[[Job], Job]]:
    """Give a function that starts a draft, in a thread or at once, and returns a function that waits for it."""
    if not parallel:
        yield _at_once
        return
    inference, settings = torch.is_inference_mode_enabled(), copy_context()

    def work(job: Job) -> TokenTree:
        with torch.inference_mode(inference):
            return settings.run(job)
    # torch sets the number of threads and the compile options per thread
    with ThreadPoolExecutor(1, "draft", torch.set_num_threads, (torch.get_num_threads(),)) as thread:
        yield lambda job: thread.submit(work, job).result


def _at_once(job: Job) -> Job:
    tree = job()
    return lambda: tree


def _joined(waiting: TokenTree, ahead: TokenTree) -> TokenTree:
    """Return the chain of the waiting tokens and the first token ahead."""
    probs = [tree.probs[i - 1] for tree, count in ((waiting, len(waiting)), (ahead, 1)) for i in range(count)
             if i - 1 in tree.probs]
    return TokenTree.chain([*waiting.tokens, *ahead.tokens[:1]], probs)
