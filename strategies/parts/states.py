"""The keys and values of texts that a model has read, kept apart from its KV cache."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from harness.engine.session import Session


@dataclass(frozen=True, eq=False)
class States:
    """Keys before their rotation, the same at length 1 in float32, and values, (G, M, D) for each layer."""

    keys: Sequence[Tensor]
    directions: Sequence[Tensor]
    values: Sequence[Tensor]

    @property
    def count(self) -> int:
        """The number of tokens."""
        return self.keys[0].shape[1] if self.keys else 0


def read(session: Session, texts: Sequence[Sequence[int]], context: int, stride: int,
         special: Collection[int] = ()) -> States:
    """Read each text in sequences of their own, opened by `session`, and return the states of all but special tokens.

    Of a text longer than `context` tokens, one sequence begins every `stride` tokens, and each token has the states of
    the first sequence that it is in.
    """
    size = min(context, session.engine.max_len)
    parts = [part for text in texts for first, new, last in windows(len(text), size, stride)
             if (part := _states(session, text[first:last], new - first, special))]
    keys, values = ([torch.cat(layer, 1) for layer in zip(*(part[kind] for part in parts), strict=True)]
                    for kind in (0, 1))
    return States(keys, [normalize(layer.float(), dim=-1) for layer in keys], values)


def windows(count: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield for each sequence of a text of `count` tokens its first token, the first new one, and its end."""
    new = 0
    for first in range(0, count, min(stride, context)):
        last = min(first + context, count)
        yield first, new, last
        if last == count:
            return
        new = last


@torch.inference_mode()
def _states(session: Session, tokens: Sequence[int], new: int, special: Collection[int]
            ) -> tuple[list[Tensor], list[Tensor]] | None:
    """Return the keys and values of the tokens from number `new` on, by layer; None if there are none."""
    engine, wanted = session.engine, [i for i in range(new, len(tokens)) if tokens[i] not in special]
    if not wanted:
        return None
    other = session.new_sequence()
    other.follow(tokens)
    other.read()
    contents = engine.cache.contents(other.row.index, len(tokens))
    other.close()
    places = torch.tensor([wanted], device=engine.device)
    keys = [engine.rotary.turned(i, layer[None, :, wanted], -places)[0] for i, (layer, _) in enumerate(contents)]
    return keys, [values[:, wanted] for _, values in contents]
