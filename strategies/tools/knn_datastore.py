"""Makes the datastores of kNN-LM, and finds the one that a run needs.

`python -m strategies.tools.knn_datastore --out FOLDER` makes one of the embedded training corpus; `--texts` names a
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
from strategies.parts.keys import WINDOW, Passage, keys, passages
from strategies.parts.neighbours import COMMAND, Cells, Datastore, Floats, indexed, load

FLAT = 200_000    # keys beyond which cells pay
OF_A_KIND = 50    # texts of each kind of the embedded corpus in the datastore "nano"
NEAR = 0.1        # how far a model's keys may lie off those in the store; other kernels and dtypes differ by less
_found = WeakKeyDictionary[Engine, dict[str, Datastore]]()


def named(name: str, strategy: str, engine: Engine) -> Datastore:
    """The datastore in a folder, or that of the embedded corpus ("nano"), which is made at first use.

    Raises `Unsupported` when the model has another vocabulary, or is not the one that made the keys.
    """
    known = _found.setdefault(engine, {})
    if name not in known:
        size = int(engine.model.config.get_text_config().vocab_size)
        store = load(Path(name)) if name != "nano" else embedded(engine) if size == VOCABULARY else None
        if not (store and store.vocab == size and fits(store, engine)):
            raise Unsupported(f"the datastore '{name}' was not made with this model: make one with {COMMAND} FOLDER "
                              f"and give {strategy}:store=FOLDER")
        known[name] = store
    return known[name]


def fits(store: Datastore, engine: Engine) -> bool:
    """Whether the model's keys of the store's first passage are those in the store."""
    _, rows = next(keys(engine, [store.start]))
    kept = torch.from_numpy(store.keys[:len(rows)].astype(np.float32))
    return kept.shape == rows.shape and bool((rows - kept).norm() <= NEAR * kept.norm())


def embedded(engine: Engine) -> Datastore:
    """The datastore of OF_A_KIND training texts of each kind, from the user's cache folder once it is there."""
    from transformers import AutoTokenizer

    from harness.models.loading import fingerprint

    words = AutoTokenizer.from_pretrained(nano.weights(nano.NAMES[0]))
    found = words(texts.corpus(count=OF_A_KIND)).input_ids
    digest = hashlib.sha256(f"{fingerprint(engine.model)}{found}".encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "decodebench" / f"knn-{digest}"
    if (folder / "about.json").exists():
        return load(folder)
    store = made(engine, found)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder.parent) as place:
            store.save(Path(place) / "new")
            (Path(place) / "new").rename(folder)  # fails when another process was faster
    except OSError:  # the next run makes it again
        pass
    return store


def made(engine: Engine, found: Sequence[Sequence[int]], folder: Path | None = None, cells: Cells | None = None,
         flat: int = FLAT, half: bool = False) -> Datastore:
    """The datastore of texts (token ids); with a `folder` the keys are written there as they come, and all is saved.

    More than `flat` keys get an index of cells, if there are `cells`; `half` keeps keys in 16 bits. Raises `UserError`
    when there are no keys, or too few for the cells.
    """
    pieces = [piece for text in found for piece in passages(text, min(WINDOW, engine.max_len))]
    size, done, start = sum(piece.places for piece in pieces), 0, Passage(())
    if not size:
        raise UserError("no text has two tokens; use longer texts.")
    places, values = np.empty((0, 0), np.float32), np.empty(size, np.int32)
    for piece, rows in keys(engine, pieces):
        if not done:
            start = Passage(list(piece.tokens[:piece.skipped + 17]), piece.skipped)
            places = _room(folder, (size, rows.shape[1]), np.dtype(np.float16 if half else np.float32))
        end = done + len(rows)
        places[done:end], values[done:end] = rows.numpy(), piece.tokens[1 + piece.skipped:]
        done = end
    vocab = int(engine.model.config.get_text_config().vocab_size)
    known = Datastore(places, values, vocab, start, indexed(places, cells if size > flat else None))
    if folder:
        known.save(folder)
    return known


def _room(folder: Path | None, shape: tuple[int, int], kind: "np.dtype[Any]") -> Floats:
    """Space for keys, in a file of `folder` if there is one."""
    if folder is None:
        return np.empty(shape, kind)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "about.json").unlink(missing_ok=True)  # written last, it says that all is there
    return np.lib.format.open_memmap(folder / "keys.npy", "w+", kind, shape)


def main() -> None:
    """Make a datastore."""
    from harness.models.loading import load as load_model

    parser = argparse.ArgumentParser(description="Make a datastore of the strategy knn_lm.")
    parser.add_argument("--model", default=nano.NAMES[0], help="whose keys: nano, a folder or a hub id")
    parser.add_argument("--texts", type=Path, help="a text or .jsonl file, or a folder; the embedded corpus without")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS, help="of the embedded corpus")
    parser.add_argument("--count", type=int, default=texts.OF_A_KIND, help="texts of each of these kinds")
    parser.add_argument("--index", choices=("auto", "flat", "ivfpq"), default="auto", help=f"auto: flat to {FLAT} keys")
    parser.add_argument("--cells", type=int, default=4096, help="of an ivfpq index")
    parser.add_argument("--codes", type=int, default=64, help="bytes for a key in an ivfpq index, at most")
    parser.add_argument("--half", action="store_true", help="keep keys in 16 bits")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write")
    options = parser.parse_args()
    if low := next((name for name in ("count", "cells", "codes") if getattr(options, name) < 1), None):
        raise UserError(f"--{low} must be at least 1, not {getattr(options, low)}.")
    model = load_model(options.model)
    found = texts.given(options.texts) if options.texts else texts.corpus(options.kinds, options.count)
    cells = None if options.index == "flat" else Cells(options.cells, options.codes)
    try:
        store = made(model.engine, model.tokenizer(found).input_ids, options.out, cells,
                     FLAT if options.index == "auto" else 0, options.half)
    except OSError as error:
        raise UserError(f"{options.out}: {error.strerror}.") from error
    kind = type(store.index).__name__.removeprefix("Index")
    print(f"{options.out}: {len(store.values)} keys of {store.keys.shape[1]} numbers from {len(found)} texts, {kind}")


if __name__ == "__main__":
    program(main)
