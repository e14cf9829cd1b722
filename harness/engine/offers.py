"""What a model can do, by name, and what is said of a strategy that needs what it cannot do."""

from collections.abc import Collection
from typing import Literal, get_args

Capability = Literal["canvas", "causal", "source", "prompt", "tree", "rollback", "attention", "images"]
"""canvas: masks are filled in any order. causal: text is written from left to right. source: the prompt is read by an
encoder. prompt: the prompt is the beginning of the sequence. tree: several continuations in one forward. rollback:
drafts are taken back. attention: self-attention over all that was read. images: the prompt may have images in it."""

DECODER: frozenset[Capability] = frozenset({"tree", "rollback", "attention", "prompt", "causal"})
CANVAS: frozenset[Capability] = frozenset({"canvas", "prompt"})
MISSING: dict[Capability, str] = {
    "canvas": "needs a model that fills masks in any order",
    "causal": "needs a model that writes from left to right",
    "source": "needs a model whose encoder reads the prompt",
    "prompt": "changes or reads the prompt as a part of the sequence, and an encoder reads the prompt of this model",
    "tree": "reads several continuations at once, and the state of this model can only move along one of them",
    "rollback": "takes drafts back, and the state of this model cannot go back",
    "attention": "watches or changes attention or what it reads, and this model knows earlier tokens by more than that",
    "images": "needs a model that reads images",
}
DRAFT_MISSING: dict[Capability, str] = {
    "canvas": "needs a draft model that fills masks in any order",
    "causal": "needs a draft model that writes from left to right",
}


def missing(needs: Collection[str], offers: Collection[str]) -> str | None:
    """Return why a strategy with these needs cannot run on a model with these offers, None if it can.

    Of several reasons it is the one that tells most about the model, which comes first in `Capability`.
    """
    return next((MISSING[name] for name in get_args(Capability) if name in needs and name not in offers), None)
