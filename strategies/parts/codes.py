"""Codes of the states after a layer: their file, how they are fitted, and the change from one code to another.

A codebook is JSON that `python -m strategies.tools.codebook` writes: the `site` of the states, such as "hidden:5" after
layer 5, the `codes`, and for each code how many states it is nearest to, by kind of text.
"""

from collections.abc import Callable, Mapping
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from harness.engine.engine import Engine
from harness.errors import Unsupported, UserError

ROUNDS = 100       # of k-means at most
AT_ONCE = 1 << 14  # states that are compared with all codes together
Number = Annotated[float, Field(allow_inf_nan=False)]
Code = Annotated[tuple[Number, ...], Field(min_length=1)]


class Codebook(BaseModel):
    """Codes of the states at `site`; `counts` are the states that each code is nearest to, by kind of text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    site: Annotated[str, Field(pattern=r"^hidden:[1-9]\d{0,3}$")]
    codes: Annotated[tuple[Code, ...], Field(min_length=1)]
    counts: dict[str, tuple[int, ...]]

    def precision(self, kind: str) -> list[float]:
        """Return for each code the share of its states that are of texts of this kind; 0 if it has no states."""
        totals = [sum(each) for each in zip(*self.counts.values(), strict=True)]
        return [own / total if total else 0.0 for own, total in zip(self.counts[kind], totals, strict=True)]

    def best(self, kind: str) -> int:
        """Return the code of a kind: the most frequent of those with a precision of .9, or else the most precise."""
        precision = self.precision(kind)
        return max(range(len(self.codes)), key=lambda code: (min(precision[code], 0.9), self.counts[kind][code]))


def nearest(states: Tensor, codes: Tensor) -> Tensor:
    """Return the number (…) of the code (K, D) with the least Euclidean distance to each state (…, D)."""
    return (codes.square().sum(-1) - 2 * states.to(codes.dtype) @ codes.T).argmin(-1)


def fitted(states: Tensor, count: int, seed: int = 0) -> Tensor:
    """Return `count` codes (K, D) of states (N, D) by k-means, which begins with k-means++.

    Raises `UserError` if fewer states differ.
    """
    codes = _begun(states, count, torch.Generator().manual_seed(seed))
    before = None
    for _ in range(ROUNDS):
        now = assigned(states, codes)
        if before is not None and torch.equal(now, before):
            break
        sums, sizes = torch.zeros_like(codes).index_add_(0, now, states), torch.bincount(now, minlength=count)[:, None]
        codes, before = torch.where(sizes > 0, sums / sizes.clamp_min(1), codes), now
    return codes


def assigned(states: Tensor, codes: Tensor) -> Tensor:
    """Return the nearest code of each of many states (N, D)."""
    return torch.cat([nearest(part, codes) for part in torch.split(states, AT_ONCE)])


def codebook(site: str, states: Mapping[str, Tensor], count: int, seed: int = 0) -> Codebook:
    """Return the codes of states (N, D) of each kind of text, fitted to all of them."""
    codes = fitted(torch.cat(list(states.values())), count, seed)
    counts = {kind: tuple(torch.bincount(assigned(some, codes), minlength=count).tolist())
              for kind, some in states.items()}
    rows = tuple(tuple(float(f"{number:.7g}") for number in row) for row in codes.tolist())
    return Codebook(site=site, codes=rows, counts=counts)


def moved(book: Codebook, code: int | None, alpha: float, engine: Engine) -> dict[str, Callable[[Tensor], Tensor]]:
    """Return the change at the codebook's site: x + `alpha` · (the code − the code that is nearest to x).

    Raises `UserError` for a code that does not exist, and `Unsupported` for codes of another model.
    """
    if code is None or code >= len(book.codes):
        raise UserError(f"clamp:mode=code needs one of the {len(book.codes)} codes of the file, numbered from 0: give "
                        "code=…")
    if len(book.codes[0]) != (size := engine.parts.embedding.embedding_dim):
        raise Unsupported(f"the codes of the file have {len(book.codes[0])} numbers, the states of the model {size}: "
                          "make them with this model")
    codes = torch.tensor(book.codes, device=engine.device)

    def change(states: Tensor) -> Tensor:
        return states + (alpha * (codes[code] - codes[nearest(states, codes)])).to(states.dtype)
    return {book.site: change} if alpha else {}


def _begun(states: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Draw states, each with a probability in proportion to its squared distance to those drawn before."""
    drawn = [states[torch.randint(len(states), (1,), generator=generator)]]
    away = (states - drawn[0]).square().sum(-1)
    while len(drawn) < count:
        if not away.any():
            raise UserError(f"the texts have only {len(drawn)} different states: give more texts, or fewer codes.")
        found = _at(away.double().cumsum(0), float(torch.rand(1, generator=generator, dtype=torch.float64)))
        drawn.append(states[found:found + 1])
        away = torch.minimum(away, (states - drawn[-1]).square().sum(-1))
    return torch.cat(drawn)


def _at(sums: Tensor, share: float) -> int:
    """Return the first place at which the running sums exceed this share of the last one."""
    return min(int(torch.searchsorted(sums, share * sums[-1:], right=True)), len(sums) - 1)
