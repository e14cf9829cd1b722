"""Prefixes that the prompts of a task share, kept while another task has its turn, so that each is computed once."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from torch import Tensor

from harness.engine.engine import Engine
from harness.engine.forward import SharedPrefix
from harness.engine.session import Session


def pin(engine: Engine, tokens: Sequence[int]) -> SharedPrefix:
    """Prefill a prefix that many sequences share, `tokens` of the target; sessions copy it until `engine.unpin`."""
    session = Session(engine, remember=engine.remembered(engine.heads))
    session.follow(engine.translation.to_draft(tokens)[:engine.max_len] if engine.translation else tokens)
    session.read()
    engine.prefixes.append(SharedPrefix(session.tokens, session.row, session.remembered))
    return engine.prefixes[-1]


class Kept(NamedTuple):
    """A prefix: its token ids, its keys and values in every layer, (heads, T, dim) each, its hidden states by name."""

    tokens: Sequence[int]
    layers: list[tuple[Tensor, Tensor]]
    states: Mapping[str, Tensor]


class KeptPrefixes:
    """The prefixes that one engine has computed; only one of them is in the cache."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self._kept = engine, dict[tuple[int, ...], Kept]()

    def pin(self, tokens: Sequence[int]) -> None:
        """Put a prefix in the cache in place of others: computed the first time, copied every other time.

        `tokens` are the target's, also for a draft model with another vocabulary. Raises `CacheFull` when the cache has
        no room for it.
        """
        engine, kept = self.engine, self._kept.get(tuple(tokens))
        engine.unpin()
        if kept is None:
            prefix = pin(engine, tokens)
            contents = engine.cache.contents(prefix.row.index, len(prefix.tokens))
            self._kept[tuple(tokens)] = Kept(prefix.tokens, contents, prefix.states)
            return
        engine.cache.reserve(engine.open_rows + 1, len(kept.tokens))
        row = engine.open_row()
        engine.fill_row(row, kept.layers)
        engine.prefixes.append(SharedPrefix(kept.tokens, row, kept.states))
