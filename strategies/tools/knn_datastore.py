"""Create the datastores of kNN-LM, and load the one that a run needs.

`python -m strategies.tools.knn_datastore --out FOLDER` creates one of the embedded training corpus; `--texts` names a
text file, a folder of them, or the training rows of a task as .jsonl instead. Up to FLAT keys the index is flat.
"""

import argparse
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

from harness import nano
from harness.engine.engine import Engine
from harness.errors import Unsupported, UserError, program
from harness.nano.corpus import KINDS
from harness.nano.tokenizer import VOCABULARY
from strategies.drafters import texts
from strategies.parts.keys import WINDOW, Passage, keys, made_by, passages
from strategies.parts.neighbours import COMMAND, Cells, Datastore, Floats, indexed, load

FLAT = 200_000    # keys above which cells are faster
OF_A_KIND = 50    # texts of each kind of the embedded corpus in the datastore "nano"
_loaded = WeakKeyDictionary[Engine, dict[str, Datastore]]()


def named(name: str, strategy: str, engine: Engine) -> Datastore:
    """Return the datastore in a folder, or that of the embedded corpus ("nano"), which is created at first use.

    Raises `Unsupported` when the model has another vocabulary or did not make the keys.
    """
    known = _loaded.setdefault(engine, {})
    if name not in known:
        size = engine.vocab
        store = load(Path(name)) if name != "nano" else embedded(engine) if size == VOCABULARY else None
        if not (store and store.vocab == size and fits(store, engine)):
            raise Unsupported(f"the datastore '{name}' was not made with this model: make one with {COMMAND} FOLDER "
                              f"and give {strategy}:store=FOLDER")
        known[name] = store
    return known[name]


def fits(store: Datastore, engine: Engine) -> bool:
    """Return whether the model computes the stored keys for the store's first passage."""
    return made_by(engine, store.start, torch.from_numpy(store.keys[:store.start.positions].astype(np.float32)))


def embedded(engine: Engine) -> Datastore:
    """Return the datastore of OF_A_KIND training texts of each kind, cached in the user's cache folder."""
    from transformers import AutoTokenizer

    from harness.models.loading import fingerprint

    tokenizer = AutoTokenizer.from_pretrained(nano.weights(nano.NAMES[0]))
    ids = tokenizer(texts.corpus(count=OF_A_KIND)).input_ids
    digest = hashlib.sha256(f"{fingerprint(engine.model)}{ids}".encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "decodebench" / f"knn-{digest}"
    if (folder / "about.json").exists():
        return load(folder)
    store = made(engine, ids)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as temporary:
            store.save(Path(temporary) / "new")
            (Path(temporary) / "new").rename(folder)  # fails when another process was faster
    except OSError:  # the next run creates it again
        pass
    return store


def made(engine: Engine, sequences: Sequence[Sequence[int]], folder: Path | None = None, cells: Cells | None = None,
         flat: int = FLAT, half: bool = False) -> Datastore:
    """Create the datastore of texts (token ids); with a `folder` it is saved there.

    More than `flat` keys get an index with `cells`, if given; `half` stores keys in 16 bits. Raises `UserError`
    when there are no keys, or too few for the cells.
    """
    pieces = [piece for tokens in sequences for piece in passages(tokens, min(WINDOW, engine.max_len))]
    size, done, start = sum(piece.positions for piece in pieces), 0, Passage(())
    if not size:
        raise UserError("no text has two tokens; use longer texts.")
    stored, values = np.empty((0, 0), np.float32), np.empty(size, np.int32)
    for piece, rows in keys(engine, pieces):
        if not done:
            start = Passage(list(piece.tokens[:piece.skipped + 17]), piece.skipped)
            stored = _allocated(folder, (size, rows.shape[1]), np.dtype(np.float16 if half else np.float32))
        end = done + len(rows)
        stored[done:end], values[done:end] = rows.numpy(), piece.tokens[1 + piece.skipped:]
        done = end
    vocab = engine.vocab
    datastore = Datastore(stored, values, vocab, start, indexed(stored, cells if size > flat else None))
    if folder:
        datastore.save(folder)
    return datastore


def _allocated(folder: Path | None, shape: tuple[int, int], kind: "np.dtype[Any]") -> Floats:
    """Allocate an array for keys, in a file of `folder` if it is given."""
    if folder is None:
        return np.empty(shape, kind)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "about.json").unlink(missing_ok=True)  # written last, so that it marks a complete datastore
    return np.lib.format.open_memmap(folder / "keys.npy", "w+", kind, shape)


def main() -> None:
    """Create a datastore."""
    from harness.models.loading import load as load_model

    parser = argparse.ArgumentParser(description="Create a datastore of the strategy knn_lm.")
    parser.add_argument("--model", default=nano.NAMES[0], help="model of the keys: nano, a folder or a hub id")
    parser.add_argument("--texts", type=Path, help="a text or .jsonl file, or a folder; default: the embedded corpus")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="kinds of the embedded corpus")
    parser.add_argument("--count", type=int, default=texts.OF_A_KIND, help="texts of each kind")
    parser.add_argument("--index", choices=("auto", "flat", "ivfpq"), default="auto", help=f"auto: flat to {FLAT} keys")
    parser.add_argument("--cells", type=int, default=4096, help="cells of an ivfpq index")
    parser.add_argument("--codes", type=int, default=64, help="maximum bytes for a key in an ivfpq index")
    parser.add_argument("--half", action="store_true", help="store keys in 16 bits")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    options = parser.parse_args()
    if low := next((name for name in ("count", "cells", "codes") if getattr(options, name) < 1), None):
        raise UserError(f"--{low} must be at least 1, not {getattr(options, low)}.")
    model = load_model(options.model)
    corpus = texts.given(options.texts) if options.texts else texts.corpus(options.kinds, options.count)
    cells = None if options.index == "flat" else Cells(options.cells, options.codes)
    try:
        store = made(model.engine, model.tokenizer(corpus).input_ids, options.out, cells,
                     FLAT if options.index == "auto" else 0, options.half)
    except OSError as error:
        raise UserError(f"{options.out}: {error.strerror}.") from error
    kind = type(store.index).__name__.removeprefix("Index")
    print(f"{options.out}: {len(store.values)} keys of {store.keys.shape[1]} numbers from {len(corpus)} texts, {kind}")


if __name__ == "__main__":
    program(main)
