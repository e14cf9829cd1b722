"""A corpus of token ids with a suffix array: what stood after these words is found by binary search.

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
END = -1      # stands after every text; no token
SORTED = 32   # tokens by which suffixes are ordered: at least the longest span and what is drafted after it


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
        """The suffix automaton of `tokens`, made once."""
        known = SuffixAutomaton()
        known.feed(self.tokens.tolist())
        return known

    def save(self, path: Path) -> None:
        """Write an .npz file; raises `OSError` where that cannot be written."""
        with path.open("wb") as file:  # numpy adds an ending to a path
            np.savez(file, tokens=self.tokens, order=self.order, vocab=np.int64(self.vocab))

    def places(self, tail: Sequence[int]) -> Ids:
        """The index after every occurrence of `tail` (at most SORTED tokens), ordered by what follows."""
        low = self._search(list(tail), 0)
        return self.order[low:self._search([*tail[:-1], tail[-1] + 1], low)] + np.int32(len(tail))

    def following(self, places: Ids, length: int) -> Ids:
        """(P, length) tokens from each place on; END from the end of its text on."""
        index = places[:, None] + np.arange(length)
        found = self.tokens[np.minimum(index, len(self.tokens) - 1)]
        return np.where(np.logical_or.accumulate(found == END, axis=1), END, found).astype(np.int32)

    def _search(self, tail: list[int], low: int) -> int:
        """The first suffix in order, from `low` on, that is not less than `tail`."""
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
    """The embedded store ("nano") or that of a file; raises `Unsupported` when the model has another vocabulary."""
    known = embedded() if name == "nano" else load(Path(name))
    vocab = session.engine.model.config.get_text_config().vocab_size
    if known.vocab != vocab:
        raise Unsupported(f"the datastore has {known.vocab} kinds of tokens and the model {vocab}: give {strategy}:"
                          "store=FILE, made with python -m strategies.tools.rest_datastore --model NAME --out FILE")
    return known


@cache
def load(path: Path) -> Store:
    """Read what `save` wrote; raises `UserError` when it is no such file."""
    try:
        with np.load(path) as file:
            return Store(file["tokens"], int(file["vocab"]), file["order"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is not a datastore; create one with python -m strategies.tools.rest_datastore "
                        f"--model NAME --out {path}.") from error


@cache
def embedded() -> Store:
    """The embedded training corpus in the tokens of the embedded model."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(nano.weights(nano.NAMES[0]))
    return Store.of(words(texts.corpus()).input_ids, len(words))


def _ordered(tokens: Ids) -> Ids:
    """Suffixes by their first SORTED tokens: each round doubles the length by which they are ordered."""
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
