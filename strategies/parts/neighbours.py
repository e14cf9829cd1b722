"""A datastore of keys and the tokens after them, searched by squared distance with FAISS.

Small datastores compare keys one by one; in larger ones cells and codes find the candidates (IVFPQ, Jégou et al. 2011,
doi 10.1109/TPAMI.2010.57), whose distances are then computed from the keys.
"""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from harness.errors import UserError
from strategies.parts.keys import Passage

Floats = NDArray[np.floating[Any]]
Ids = NDArray[np.int32]
TRAINED = 1_000_000   # maximum keys for fitting cells and codes
ADDED = 100_000       # keys added to an index at a time
COMMAND = "python -m strategies.tools.knn_datastore --model NAME --out"


@dataclass(frozen=True)
class Cells:
    """An IVFPQ index: `count` cells, and a key's offset from its cell's centre in `codes` bytes."""

    count: int = 4096
    codes: int = 64


class Datastore:
    """`keys` (N, D), `values` (N,), the tokens after them, and `index`, a FAISS index over the keys.

    `vocab` is the size of the vocabulary of the values. The first keys are those of the passage `start`,
    which shows whether a model made them.
    """

    def __init__(self, keys: Floats, values: Ids, vocab: int, start: Passage, index: Any = None) -> None:
        self.keys, self.values, self.vocab, self.start = keys, values, vocab, start
        self.index = index or indexed(keys, None)

    def nearest(self, queries: Floats, k: int, probes: int = 32, exact: bool = True) -> tuple[Floats, Ids]:
        """Return squared distances and values, (Q, k) each, of the keys nearest to `queries` (Q, D), the nearest first.

        If there are fewer neighbours, the distance is infinite. An index of cells searches `probes` of them; its
        distances are those to the codes unless `exact`, which keeps their order.
        """
        import faiss

        faiss.omp_set_num_threads(torch.get_num_threads())
        cells = isinstance(self.index, faiss.IndexIVFPQ)
        options = {"params": faiss.SearchParametersIVF(nprobe=probes)} if cells else {}
        queries = np.ascontiguousarray(queries, np.float32)
        distances, indices = self.index.search(queries, min(k, len(self.values)), **options)
        if cells and exact:
            distances = np.stack([np.square(self.keys[nearest].astype(np.float32) - query).sum(-1)
                                  for nearest, query in zip(indices, queries, strict=True)])
        return np.where(indices < 0, np.float32(np.inf), distances), self.values[indices]

    def save(self, folder: Path) -> None:
        """Write keys, values and index into a folder."""
        import faiss

        folder.mkdir(parents=True, exist_ok=True)
        if getattr(self.keys, "filename", None) != (folder / "keys.npy").resolve():
            np.save(folder / "keys.npy", self.keys)
        np.save(folder / "values.npy", self.values)
        if isinstance(self.index, faiss.IndexIVFPQ):
            faiss.write_index(self.index, str(folder / "index.faiss"))
        else:
            (folder / "index.faiss").unlink(missing_ok=True)
        (folder / "about.json").write_text(json.dumps({"vocab": self.vocab, "start": self.start}))


@cache
def load(folder: Path) -> Datastore:
    """Open a folder that `save` wrote; raises `UserError` for any other folder."""
    import faiss

    try:
        about = json.loads((folder / "about.json").read_text())
        keys, values = np.load(folder / "keys.npy", mmap_mode="r"), np.load(folder / "values.npy")
        file = folder / "index.faiss"
        index = faiss.read_index(str(file)) if file.exists() else None
        if len(keys) != len(values):
            raise ValueError("keys and values are not of one build")
        return Datastore(keys, values, int(about["vocab"]), Passage(*about["start"]), index)
    except (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{folder} is not a datastore of knn_lm; create one with {COMMAND} {folder}.") from error


def indexed(keys: Floats, cells: Cells | None) -> Any:
    """Build a FAISS index of `keys` (N, D), flat or with cells; raises `UserError` for too few keys."""
    import faiss

    count, width = keys.shape
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatL2(width)
    if cells:
        if count < max(cells.count, 256):
            raise UserError(f"{cells.count} cells need at least {max(cells.count, 256)} keys, and the texts give "
                            f"{count}; give fewer --cells, or --index flat.")
        codes = next(codes for codes in range(min(cells.codes, width), 0, -1) if width % codes == 0)
        index = faiss.IndexIVFPQ(index, width, cells.count, codes, 8)
        index.cp.min_points_per_centroid = 1  # no warnings
        index.pq.cp.min_points_per_centroid = 1
        sample = np.random.default_rng(0).choice(count, min(count, TRAINED), replace=False)
        index.train(keys[np.sort(sample)].astype(np.float32))
    for first in range(0, count, ADDED):
        index.add(np.ascontiguousarray(keys[first:first + ADDED], np.float32))
    return index
