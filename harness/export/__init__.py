"""Exports runs to the formats of other tools and imports their results as runs: one module per format."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import UserError, suggestion

if TYPE_CHECKING:
    from harness.store.folder import Store

EXPORTS = ("spec-bench", "lm-eval", "latex", "parquet", "github-benchmark", "without-prompts")
IMPORTS = ("spec-bench", "lm-eval", "vllm", "sglang")


@dataclass(frozen=True)
class ExportedFiles:
    """The files of an export, and notes for their readers."""

    files: list[Path]
    notes: list[str] = field(default_factory=list)


def left_out(failed: int) -> list[str]:
    """Return a note that failed samples are left out, if there are any."""
    return [f"{failed} failed {'sample is' if failed == 1 else 'samples are'} left out"] if failed else []


def file_names(labels: Mapping[str, str]) -> dict[str, str]:
    """Return a unique file name for each label, under the same keys."""
    names: dict[str, str] = {}
    for key, label in labels.items():
        name, number = re.sub(r"[^\w.=+-]+", "-", label), 1
        while (unique := name if number == 1 else f"{name}-{number}") in names.values():
            number += 1
        names[key] = unique
    return names


def export(store: "Store", format: str, folder: Path) -> ExportedFiles:
    """Write a run to `folder` in one of the formats `EXPORTS`; raises `UserError` for another format."""
    exported: ExportedFiles = import_module(_module(format, EXPORTS, "export")).write(store, folder)
    return exported


def import_run(files: Sequence[str], format: str, folder: Path, command: str) -> "Store":
    """Create a run in `folder` from result files in one of the formats `IMPORTS`, each a path or NAME=PATH.

    Raises `UserError` with the file and line of an invalid row before anything is written.
    """
    module = import_module(_module(format, IMPORTS, "import"))
    from harness.export.imported import assemble, require_empty, sources

    require_empty(folder)
    runs = [(source, run) for source in sources(files) for run in module.read(source)]
    return assemble(runs, format, folder, command)


def _module(format: str, known: Sequence[str], verb: str) -> str:
    if format not in known:
        raise UserError(f"There is no {verb} format '{format}'.{suggestion(format, known)}")
    return f"harness.export.{format.replace('-', '_')}"
