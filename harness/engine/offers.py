"""What a model can do, by name, and what is said of a strategy that needs what it cannot do."""

from collections.abc import Collection
from typing import Literal, get_args

Capability = Literal["tree", "rollback", "attention", "prompt", "source", "canvas", "causal"]
"""tree: several continuations in one forward. rollback: drafts are taken back. attention: self-attention over all that
was read. prompt: the prompt is the beginning of the sequence. source: the prompt is read by an encoder. canvas: masks
are filled in any order. causal: text is written from left to right."""

DECODER: frozenset[Capability] = frozenset({"tree", "rollback", "attention", "prompt", "causal"})
CANVAS: frozenset[Capability] = frozenset({"canvas", "prompt"})
MISSING: dict[Capability, str] = {
    "tree": "reads several continuations at once, and the state of this model can only move along one of them",
    "rollback": "takes drafts back, and the state of this model cannot go back",
    "attention": "looks at the attention to all earlier tokens, which cannot be watched in this model",
    "prompt": "changes or reads the prompt as a part of the sequence, and an encoder reads the prompt of this model",
    "source": "needs a model whose encoder reads the prompt",
    "canvas": "needs a model that fills masks in any order",
    "causal": "needs a model that writes from left to right",
}


def missing(needs: Collection[str], offers: Collection[str]) -> str | None:
    """Return why a strategy with these needs cannot run on a model with these offers, None if it can."""
    return next((MISSING[name] for name in get_args(Capability) if name in needs and name not in offers), None)
