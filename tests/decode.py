"""Runs a strategy on a tiny model, as the runner would, without a run."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from harness.decoding.draw import PhiloxStream, Stream
from harness.decoding.engine import Engine
from harness.decoding.session import Session, Work
from harness.registry import STRATEGIES
from harness.strategy import Request, Strategy
from strategies.drafters.store import Store
from tests.models import EOS, MAX_POSITIONS, prompts

torch.set_num_threads(1)


@cache
def built(name: str, vocab: int = 97, more: str = "") -> Strategy:
    """The strategy at its defaults; what looks texts up in a store gets one of this model's tokens."""
    if name == "rest":
        path = Path(mkdtemp(prefix="decodebench-store-")) / "store.npz"
        Store.of([prompt[::-1] for prompt in prompts(8, vocab, 1)], vocab).save(path)
        more = f"store={path},{more}"
    return STRATEGIES.build(f"{name}:{more}")


def engine(model: Any) -> Engine:
    """An engine over a tiny model."""
    return Engine(model, MAX_POSITIONS)


def decode(strategy: Strategy, target: Engine, prompt: list[int], *, draft: Engine | None = None, new: int = 30,
           sample: int = 0, eos: int | None = EOS, stream: Stream | None = None) -> list[int]:
    """The tokens of `strategy` after `prompt`, cut at EOS (kept) and at `new` tokens."""
    return traced(strategy, target, prompt, draft=draft, new=new, sample=sample, eos=eos, stream=stream)[0]


def traced(strategy: Strategy, target: Engine, prompt: list[int], *, draft: Engine | None = None, new: int = 30,
           sample: int = 0, eos: int | None = EOS, stream: Stream | None = None) -> tuple[list[int], Work, Work]:
    """The tokens, and what target and draft have worked for them."""
    session = Session(target, draft=Session(draft) if draft else None, remember="hidden" in strategy.needs)
    request = Request(tuple(prompt), new, stream or PhiloxStream(0, *prompt, sample),
                      frozenset() if eos is None else frozenset({eos}), sample)
    tokens: list[int] = []
    try:
        for step in strategy.generate(session, request):
            tokens += step
            if eos in tokens or len(tokens) >= new:
                break
    finally:
        session.close()
    tokens = tokens[:new]
    return tokens[:tokens.index(eos) + 1] if eos in tokens else tokens, session.work, session.draft_work
