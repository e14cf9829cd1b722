"""A corpus of token ids with a suffix array: what stood after these words is found by binary search.

`python -m strategies.drafters.store --model nano --out store.npz` makes one of the embedded training corpus; `--texts`
names a text file, or a folder of them, instead.
"""

import argparse
import zipfile
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness import nano
from harness.errors import UserError, program
from harness.nano.corpus import KINDS, problems
from harness.nano.documents import parts

Ids = NDArray[np.int32]
END = -1      # stands after every text; no token
SORTED = 32   # tokens by which suffixes are ordered: at least the longest span and what is drafted after it
OF_A_KIND = 200


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

    def save(self, path: Path) -> None:
        """Write an .npz file."""
        np.savez(path, tokens=self.tokens, order=self.order, vocab=np.int64(self.vocab))

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


def frequent(rows: Ids, most: int) -> list[list[int]]:
    """The `most` most frequent starts of `rows` (P, L), which must be in order; shorter ones first when equal."""
    new = np.ones(rows.shape, bool)
    new[1:] = np.logical_or.accumulate(rows[1:] != rows[:-1], axis=1)
    starts, levels = np.nonzero(new & (rows != END))
    counts = np.empty(len(starts), np.int64)
    for level in range(rows.shape[1]):
        all_starts = np.flatnonzero(new[:, level])
        size = dict(zip(all_starts.tolist(), np.diff(all_starts, append=len(rows)).tolist(), strict=True))
        here = levels == level
        counts[here] = [size[start] for start in starts[here].tolist()]
    best = np.lexsort((starts, levels, -counts))[:most]
    return [rows[starts[i], :levels[i] + 1].tolist() for i in best.tolist()]


@cache
def load(path: Path) -> Store:
    """Read what `save` wrote; raises `UserError` when it is no such file."""
    try:
        with np.load(path) as file:
            return Store(file["tokens"], int(file["vocab"]), file["order"])
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no datastore; make one with python -m strategies.drafters.store --model NAME "
                        f"--out {path}.") from error


@cache
def embedded() -> Store:
    """The embedded training corpus in the tokens of the embedded model."""
    from transformers import AutoTokenizer

    words = AutoTokenizer.from_pretrained(nano.weights(nano.NAMES[0]))
    return Store.of(words(corpus()).input_ids, len(words))


def corpus() -> list[str]:
    """The training texts of the embedded corpus, OF_A_KIND of every kind."""
    return ["".join(piece for piece, _ in parts(problem, kind)) for kind in KINDS
            for problem in problems(kind, "train", OF_A_KIND)]


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


def _texts(path: Path) -> list[str]:
    """What is in a file, or in all files of a folder; raises `UserError` when that is nothing."""
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    try:
        texts = [text for file in files if (text := file.read_text(errors="replace")).strip()]
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}.") from error
    if not texts:
        raise UserError(f"{path} holds no text; give --texts a file or a folder of texts.")
    return texts


def main() -> None:
    """Make a datastore."""
    from harness.backends.transformers import load as load_model

    parser = argparse.ArgumentParser(description="Make the datastore of the strategy rest.")
    parser.add_argument("--model", default=nano.NAMES[0], help="whose tokens: nano, a folder or a hub id")
    parser.add_argument("--texts", type=Path, help="a text file or a folder of them; the embedded corpus without")
    parser.add_argument("--out", type=Path, required=True, help="the .npz file to write")
    options = parser.parse_args()
    model = load_model(options.model)
    texts = _texts(options.texts) if options.texts else corpus()
    store = Store.of(model.tokenizer(texts).input_ids, model.vocab)
    store.save(options.out)
    print(f"{options.out}: {len(store.tokens)} tokens of {len(texts)} texts")


if __name__ == "__main__":
    program(main)
