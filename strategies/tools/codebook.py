"""Fit codes to the states after a layer of a model, as a file for `clamp:mode=code`.

`python -m strategies.tools.codebook --layer 5 --out FILE` fits 64 codes to the dev texts of nano's corpus by k-means,
and prints the codes of each kind of text. Of other texts (`--texts`), each file is a kind, named as the file is.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from harness import nano
from harness.engine.engine import Engine
from harness.errors import UserError, program
from harness.models.loading import Model
from harness.nano.corpus import KINDS
from harness.store.files import replace_file
from strategies.drafters import texts
from strategies.parts.codes import Codebook, codebook
from strategies.parts.keys import WINDOW, keys, passages

COUNT, CODES = 40, 64  # texts of each kind, codes


def states(engine: Engine, sequences: Sequence[Sequence[int]], site: str) -> Tensor:
    """Return the states (N, D) at a site, at every position of texts (token ids) that has a next token."""
    pieces = [piece for tokens in sequences for piece in passages(tokens, min(WINDOW, engine.max_len))]
    if not pieces:
        raise UserError("no text has two tokens; use longer texts.")
    return torch.cat([rows for _, rows in keys(engine, pieces, site)])


def made(model: Model, kinds: Mapping[str, Sequence[str]], layer: int, count: int = CODES, seed: int = 0) -> Codebook:
    """Return codes of the states after a layer, counted from 1, on the texts of each kind.

    Raises `UserError` for a layer that the model does not have.
    """
    if not 1 <= layer <= (last := len(model.engine.parts.layers)):
        raise UserError(f"{model.name} has no layer {layer}; give one of 1 to {last}.")
    site = f"hidden:{layer}"
    found = {kind: states(model.engine, model.tokenizer(list(some)).input_ids, site) for kind, some in kinds.items()}
    return codebook(site, found, count, seed)


def embedded(count: int = COUNT) -> dict[str, list[str]]:
    """Return `count` dev texts of each kind of nano's corpus."""
    return {kind: texts.corpus([kind], count, "dev") for kind in KINDS}


def main() -> None:
    """Fit codes, and print those of each kind."""
    from harness.models.loading import load as load_model

    parser = argparse.ArgumentParser(description="Fit codes for clamp:mode=code.")
    parser.add_argument("--model", default=nano.NAMES[0], help="model of the states: nano, a folder or a hub id")
    parser.add_argument("--layer", type=int, required=True, help="layers before the states")
    parser.add_argument("--codes", type=int, default=CODES, help="number of codes")
    parser.add_argument("--texts", type=Path, nargs="+", help="a file or folder for each kind of text [nano's corpus]")
    parser.add_argument("--count", type=int, default=COUNT, help="texts of each kind of nano's corpus")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first codes")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    options = parser.parse_args()
    if low := next((name for name in ("codes", "count") if getattr(options, name) < 1), None):
        raise UserError(f"--{low} must be at least 1, not {getattr(options, low)}.")
    kinds = {path.stem: texts.given(path) for path in options.texts} if options.texts else embedded(options.count)
    book = made(load_model(options.model), kinds, options.layer, options.codes, options.seed)
    replace_file(options.out, book.model_dump_json())
    for kind in kinds:
        precision, code = book.precision(kind), book.best(kind)
        print(f"{kind}: {sum(each >= 0.9 for each in precision)} codes with a precision of .9; the first is {code}, "
              f"with {precision[code]:.2f} and {book.counts[kind][code]} states")


if __name__ == "__main__":
    program(main)
