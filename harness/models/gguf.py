"""GGUF files: transformers converts one at every load, so a small model is kept converted in the user's cache."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from harness.models.source import Source

LARGEST = 1 << 30  # bytes of converted weights up to which a model is kept


def kept(source: Source) -> Source:
    """Return the folder that `keep` wrote for a GGUF file, else the source itself."""
    folder = _folder(source)
    return Source(str(folder)) if folder and folder.is_dir() else source


def keep(source: Source, model: Any, tokenizer: Any) -> None:
    """Save a model that was just converted from a GGUF file, if it is small and in float32, which is exact."""
    folder, size = _folder(source), sum(weight.nbytes for weight in model.parameters())
    if folder is None or model.dtype != torch.float32 or size > LARGEST:
        return
    part = folder.with_name(f"{folder.name}.{os.getpid()}")
    with contextlib.suppress(OSError):  # a cache is only faster
        part.mkdir(parents=True)
        if shutil.disk_usage(part).free > 4 * size:
            model.save_pretrained(part)
            tokenizer.save_pretrained(part)
            part.rename(folder)
    shutil.rmtree(part, ignore_errors=True)


def as_plain(model: Any) -> None:
    """Make a model that was converted from a GGUF file one like any other, which can be saved."""
    model.hf_quantizer, model.is_quantized = None, False
    del model.config.quantization_config


@contextlib.contextmanager
def without_bar() -> Iterator[None]:
    """Convert without the progress bar of transformers, which no setting of it turns off."""
    from transformers import modeling_gguf_pytorch_utils as utils

    before, utils.tqdm = utils.tqdm, lambda tensors, **_: tensors
    try:
        yield
    finally:
        utils.tqdm = before


def _folder(source: Source) -> Path | None:
    """Return the folder in the cache for a GGUF file on this machine, None for any other source."""
    if source.sha256 is None:
        return None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "decodebench" / f"gguf-{source.sha256[:16]}"
