"""A corpus of token ids with a suffix array, which finds the continuations of an n-gram by binary search.

`python -m strategies.tools.rest_datastore` makes one.
"""

import zipfile
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness import nano
from harness.engine.session import Session
from harness.errors import Unsupported, UserError
from strategies.drafters import texts
from strategies.drafters.automaton import SuffixAutomaton

Ids = NDArray[np.int32]
END = -1      # marks the end of every text; no token id
SORTED = 32   # tokens by which suffixes are sorted: at least the longest match plus the longest draft


class Store:
    """`tokens` (N,) with END after every text; `order` (N,) holds the suffixes, ordered by their first SORTED tokens.

    `vocab` is the size of the vocabulary that the ids belong to.
    """

    def __init__(self, tokens: Ids, vocab: int, order: Ids | None = None) -> None:
        self.tokens, self.vocab, self.order = tokens, vocab, _ordered(tokens) if order is None else order

    @classmethod
    def of(cls, texts: Iterable[Sequence[int]], vocab: int) -> "Store":
        """Index texts (token ids)."""
        return cls(np.array([token for text in texts for token in (*text, END)], np.int32), vocab)

    @cached_property
    def automaton(self) -> SuffixAutomaton:
        """Return the suffix automaton of `tokens`, built once."""
        automaton = SuffixAutomaton()
        automaton.feed(self.tokens.tolist())
        return automaton

    def save(self, path: Path) -> None:
        """Write an .npz file; raises `OSError` when it cannot be written."""
        with path.open("wb") as file:  # numpy adds an ending to a path
            np.savez(file, tokens=self.tokens, order=self.order, vocab=np.int64(self.vocab))

    def positions(self, tail: Sequence[int]) -> Ids:
        """Return the index after every occurrence of `tail` (at most SORTED tokens), sorted by the next tokens."""
        low, high = self.range(tail)
        return self.order[low:high] + np.int32(len(tail))

    def range(self, tail: Sequence[int]) -> tuple[int, int]:
        """Return the first suffix in order that begins with `tail` (at most SORTED tokens), and that after the last."""
        if not tail:
            return 0, len(self.order)
        low = self._search(list(tail), 0)
        return low, self._search([*tail[:-1], tail[-1] + 1], low)

    def continuations(self, tail: Sequence[int]) -> list[int]:
        """Return the distinct tokens that follow `tail` (fewer than SORTED tokens), in order; no end of a text.

        One search for each of them: the time does not grow with the number of occurrences.
        """
        found, (low, high) = list[int](), self.range(tail)
        low = self._search([*tail, 0], low)
        while low < high:
            found.append(int(self.tokens[int(self.order[low]) + len(tail)]))
            low = self._search([*tail, found[-1] + 1], low)
        return found

    def following(self, positions: Ids, length: int) -> Ids:
        """Return (P, length) the tokens from each index on, END after the end of the text."""
        index = positions[:, None] + np.arange(length)
        tokens = self.tokens[np.minimum(index, len(self.tokens) - 1)]
        return np.where(np.logical_or.accumulate(tokens == END, axis=1), END, tokens).astype(np.int32)

    def _search(self, tail: list[int], low: int) -> int:
        """Find the first suffix in order, from `low` on, that is not less than `tail`."""
        high = len(self.order)
        while low < high:
            middle = (low + high) // 2
            start = int(self.order[middle])
            if self.tokens[start:start + len(tail)].tolist() < tail:
                low = middle + 1
            else:
                high = middle
        return low


def named(name: str, strategy: str, session: Session) -> Store:
    """Load the embedded store ("nano") or that of a file; raises `Unsupported` for another vocabulary."""
    store = embedded() if name == "nano" else load(Path(name))
    vocab = session.engine.vocab
    if store.vocab != vocab:
        raise Unsupported(f"the vocabulary of the datastore is {store.vocab}, the model's is {vocab}: give {strategy}:"
                          "store=FILE, made with python -m strategies.tools.rest_datastore --model NAME --out FILE")
    return store


@cache
def load(path: Path) -> Store:
    """Load a file that `save` wrote; raises `UserError` for any other file."""
    try:
        with np.load(path) as file:
            return Store(file["tokens"], int(file["vocab"]), file["order"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a datastore; create one with python -m strategies.tools.rest_datastore "
                        f"--model NAME --out {path}.") from error


@cache
def embedded() -> Store:
    """Return the store of the embedded training corpus in the tokens of the embedded model."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(nano.weights(nano.NAMES[0]))
    return Store.of(tokenizer(texts.corpus()).input_ids, len(tokenizer))


def _ordered(tokens: Ids) -> Ids:
    """Sort the suffixes by their first SORTED tokens; each round doubles the sorted length."""
    rank, size = np.unique(tokens, return_inverse=True)[1].astype(np.int64), 1
    order = np.argsort(rank, kind="stable")
    while size < SORTED:
        key = rank * (len(tokens) + 1)
        key[:-size] += rank[size:] + 1
        order = np.argsort(key, kind="stable")
        new = np.concatenate([[0], key[order][1:] != key[order][:-1]])
        rank = np.empty_like(rank)
        rank[order], size = np.cumsum(new), 2 * size
    return order.astype(np.int32)
