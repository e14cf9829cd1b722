"""Untrained heads for tiny models: every method that drafts with a head must be exact with any weights."""

from functools import cache

import torch

from harness.decoding.trained import Trained
from harness.engine.engine import Engine
from harness.engine.session import Session
from harness.heads.expander import Expander
from harness.heads.network import Network, TargetParts, settings_of
from harness.models.trained_head import Card, Head
from harness.plugins.registry import STRATEGIES
from harness.plugins.spec import Stage


@cache
def kinds() -> dict[str, type[Network]]:
    """Return the network of each kind of head."""
    found = {name: STRATEGIES.get(name) for name in sorted(STRATEGIES.built_in())}
    return {name: cls.network for name, cls in found.items() if issubclass(cls, Trained) and cls.head_kind == name}


def variant(spec: str, engine: Engine) -> Head:
    """Return an untrained head of a kind with settings, `hydra:prefix=true`."""
    return untrained(Stage.parse(spec).name, engine, **Stage.parse(spec).knobs)


def expander(kind: str, session: Session, network: Network) -> Expander:
    """Return what drafts with a network of this kind, step by step."""
    return STRATEGIES.get(Stage.parse(kind).name).expander(session, network)


def untrained(kind: str, engine: Engine, **settings: bool | int | float | str) -> Head:
    """Return a head with random weights, the same at each call; its ranks are made up."""
    parts = TargetParts.of(engine)
    with torch.inference_mode(False), torch.random.fork_rng():  # the first test to ask may be in inference mode
        torch.manual_seed(0)
        network = kinds()[kind](parts, settings_of(kinds()[kind], settings))
    network.to(engine.device, engine.dtype).eval().requires_grad_(False)
    ranks = [[0.5, 0.2, 0.1, 0.05]] * network.depth
    return Head(kind, Card(kind=kind, target="tiny", fingerprint="", hidden=parts.hidden, vocab=parts.vocab,
                           settings=settings, ranks=ranks), network, "")


def attach(engine: Engine) -> Engine:
    """Give an engine an untrained head of each kind, and return it."""
    engine.heads |= {kind: untrained(kind, engine) for kind in kinds()}
    return engine
