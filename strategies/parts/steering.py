"""Vectors and neurons that steer a model: their file, and the hook that applies them in a forward.

The file is JSON. Either a list of edits, `{"site": "hidden:5", "vector": [0.1, …]}` after layer 5 and
`{"site": "neurons:3", "index": 17, "value": 4.0}` in the MLP of layer 3 (counted from 0); or two sets of texts,
`{"toward": ["…"], "away": ["…"]}`, from which `direction` makes a vector; or a codebook of `strategies/parts/codes.py`.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from torch import Tensor

from harness.engine.engine import Engine
from harness.engine.hooks import ModelParts, Watch, changed
from harness.engine.session import Session
from harness.engine.tree import EMPTY
from harness.errors import Unsupported, UserError
from harness.plugins.data import read_text
from strategies.parts.codes import Codebook, Number


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Vector(_Strict):
    """A vector in the residual stream at `site`."""

    site: Annotated[str, Field(pattern=r"^hidden:[1-9]\d{0,3}$")]
    vector: Annotated[tuple[Number, ...], Field(min_length=1)]


class Neuron(_Strict):
    """The value of one neuron at `site`."""

    site: Annotated[str, Field(pattern=r"^neurons:\d{1,4}$")]
    index: Annotated[int, Field(ge=0)]
    value: Number


class Contrast(_Strict):
    """Two sets of texts."""

    toward: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    away: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


Edits = tuple[Vector | Neuron, ...]


@cache
def read(path: Path) -> Edits | Contrast | Codebook:
    """Return what a file holds; raises `UserError` for any other file."""
    try:
        found: Edits | Contrast | Codebook = TypeAdapter(Edits | Contrast | Codebook).validate_json(
            read_text(str(path)))
        return found
    except ValidationError:
        raise UserError(f"{path} holds neither a list of edits, such as [{{\"site\": \"hidden:5\", \"vector\": [0.1, "
                        "…]}], nor the texts {\"toward\": [\"…\"], \"away\": [\"…\"]}, nor codes of "
                        "python -m strategies.tools.codebook.") from None


@dataclass(frozen=True)
class Steered:
    """A hook that makes these `changes`, by site as in `changed`; hooks with equal keys make the same ones."""

    key: tuple[object, ...]
    changes: Mapping[str, Callable[[Tensor], Tensor]] = field(compare=False)

    @contextmanager
    def applied_to(self, parts: ModelParts) -> Iterator[None]:
        """Change the states in one forward pass."""
        with changed(parts, self.changes):
            yield


def changes(edits: Edits, alpha: float, mode: str, engine: Engine) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the change at each site, the edits of a site one after the other.

    Vector v and mode "add": h + `alpha`·v. "project": the part of h along v becomes `alpha`·v. A neuron is set to its
    value. Raises `Unsupported` for a vector of another model.
    """
    by_site, size = defaultdict[str, list[Callable[[Tensor], Tensor]]](list), engine.parts.embedding.embedding_dim
    for edit in edits:
        if isinstance(edit, Neuron):
            by_site[edit.site].append(_set(edit.index, edit.value))
        elif alpha or mode == "project":
            if len(edit.vector) != size:
                raise Unsupported(f"the vectors of the file have {len(edit.vector)} numbers, the states of the model "
                                  f"{size}: make them with this model")
            vector = torch.tensor(edit.vector, device=engine.device, dtype=engine.dtype)
            by_site[edit.site].append(_added(alpha * vector) if mode == "add" else _projected(vector, alpha))
    return {site: _after_each_other(found) for site, found in by_site.items()}


def direction(texts: Contrast, layer: int, encode: Callable[[str], list[int]], engine: Engine) -> Vector:
    """Return the difference of the mean states after the last tokens of both sets, after `layer` layers.

    It points to `toward`, and is as long as these states are on average. Not counted as work of a sequence.
    """
    sets = [torch.stack([last_state(encode(text), f"hidden:{layer}", engine) for text in some])
            for some in (texts.toward, texts.away)]
    toward, away = (states.mean(0) for states in sets)
    if torch.equal(toward, away):
        raise UserError("clamp: both sets of texts lead to the same states: give texts that differ.")
    found = (toward - away) / (toward - away).norm() * torch.cat(sets).norm(dim=-1).mean()
    return Vector.model_construct(site=f"hidden:{layer}", vector=tuple(found.tolist()))


def last_state(tokens: Sequence[int], name: str, engine: Engine) -> Tensor:
    """Return the state (D,) of this name, as in `Watch`, after the last of the tokens."""
    with closing(Session(engine)) as session:
        session.shares_prefixes = False
        session.follow(tokens)
        return session.read(EMPTY, Watch((name,))).captured(name)[0].float()


def _added(shift: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda states: states + shift


def _projected(vector: Tensor, alpha: float) -> Callable[[Tensor], Tensor]:
    unit = vector / vector.norm()
    return lambda states: states - (states @ unit)[..., None] * unit + alpha * vector


def _set(index: int, value: float) -> Callable[[Tensor], Tensor]:
    def change(states: Tensor) -> Tensor:
        if index >= states.shape[-1]:
            raise Unsupported(f"there is no neuron {index} in an MLP of {states.shape[-1]} neurons")
        states = states.clone()
        states[..., index] = value
        return states
    return change


def _after_each_other(changes: Sequence[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
    def change(states: Tensor) -> Tensor:
        for one in changes:
            states = one(states)
        return states
    return change
