"""A fake backend for tests: it runs our strategies, reports few details of their steps, and fails on request."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from harness.backends.backend import Backend, Generated, connect
from harness.backends.external import ExternalBackend, GenerationRequest
from harness.backends.transformers import open_session
from harness.engine.random_stream import PhiloxStream
from harness.errors import UserError
from harness.models.loading import Model
from harness.plugins.strategy import Request, Strategy
from harness.store.config import RunConfig
from harness.store.schema import Steps

GONE = "The engine has ended (killed in mid-run); the same command goes on from here."


@dataclass
class Fake(ExternalBackend):
    """`refused` has reasons by strategy, the prompt `failing` fails, and the backend ends after `lives` answers."""

    target: Model
    draft: Model | None
    refused: dict[str, str] = field(default_factory=dict)
    failing: tuple[int, ...] | None = None
    lives: int = 1_000_000
    extra: int = 3
    telling: bool = True
    side_by_side: bool = True
    context: int = 128
    asked: list[tuple[str, tuple[GenerationRequest, ...]]] = field(default_factory=list)
    closed: int = 0

    @property
    def warnings(self) -> list[str]:
        return ["a fake decodes"]

    @property
    def facts(self) -> dict[str, Any]:
        return {"name": "fake", "eager": True}

    def refusal(self, strategy: Strategy) -> str | None:
        return self.refused.get(strategy.name)

    @torch.inference_mode()
    def generate(self, strategy: Strategy, asks: Sequence[GenerationRequest],
                 batch_size: int | None) -> list[Generated | Exception]:
        self.asked.append((strategy.spec(), tuple(asks)))
        self.lives -= len(asks)
        if self.lives < 0:
            raise UserError(GONE)
        return [RuntimeError("out of luck") if ask.prompt == self.failing else self._answer(strategy, ask)
                for ask in asks]

    def _answer(self, strategy: Strategy, ask: GenerationRequest) -> Generated:
        """Return tokens beyond the limit, as a backend may, and without `telling` only text in one step."""
        engines = [model.engine for model in (self.target, self.draft) if model]
        session, tokens, counts = open_session(strategy, engines), list[int](), list[int]()
        request = Request(ask.prompt, ask.max_tokens + self.extra, PhiloxStream(ask.seed), ask.eos, ask.sample)
        for step in strategy.generate(session, request):
            tokens += step
            counts.append(len(step))
            if len(tokens) >= ask.max_tokens + self.extra or ask.eos & set(tokens):
                break
        session.close()
        if not self.telling:
            return Generated([], Steps(tokens=[len(tokens)], seconds=[1.0]), "length", "some words")
        return Generated(tokens, Steps(tokens=counts, seconds=[0.5] * len(counts)), "length")

    def close(self) -> None:
        self.closed += 1


def connected(monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[Fake]:
    """Make `--backend vllm` a fake with these options; return the list of connected fakes."""
    made = list[Fake]()

    def connected_(config: RunConfig, target: Model, draft: Model | None) -> Backend:
        if config.backend == "transformers":
            return connect(config, target, draft)
        made.append(Fake(target, draft, **options))
        return made[-1]
    monkeypatch.setattr("harness.run.plan.connect", connected_)
    return made
