"""A finished run is answered again at once, without a model: what it printed is kept beside its records.

The same command gives the same run if its settings, the versions of the libraries, our code, and every file that the
run read or wrote are what they were. Files are compared by size and time of change. If anything differs, if a model is
not a file here, or if a task is the user's own code, the run is planned as always, which compares models and data.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from harness.store.environment import PACKAGES, version_of
from harness.store.files import replace_file
from harness.store.lock import HOLDER, LOCK
from harness.store.shard import Shard

if TYPE_CHECKING:
    from harness.run.runner import Outcome
    from harness.store.config import RunConfig
    from harness.store.folder import Store

FILE = "finished.json"
ROOT = Path(__file__).resolve().parents[2]
CODE = tuple(str(ROOT / package) for package in ("harness", "strategies", "tasks"))
VARIABLES = ("DECODEBENCH_DATA", "DECODEBENCH_PLUGINS", "CUDA_VISIBLE_DEVICES")


class Finished(BaseModel):
    """What a finished run answered: its `key`, the `state` of the files below `roots`, and all that was printed."""

    key: str
    roots: list[str]
    state: str
    folder: str
    page: str
    samples: int
    notes: list[str]
    answer: dict[str, Any]
    shown: list[dict[str, Any]]


def find(settings: "RunConfig") -> Finished | None:
    """Return the answer of a finished run with these settings whose files are unchanged, None if there is none."""
    folders, own = [settings.output] if settings.output else sorted(Path("runs").glob("*")), settings.shard
    if own:
        folders = [folder / Shard.parse(own).folder for folder in folders]
    key = _key(settings)
    for path in (folder / FILE for folder in folders):
        try:
            known = Finished.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError, UnicodeDecodeError):
            continue
        if known.key == key and known.state == _state(known.roots):
            return known
    return None


def keep(settings: "RunConfig", outcome: "Outcome", store: "Store", page: Path, answer: dict[str, Any],
         shown: Sequence[dict[str, Any]]) -> None:
    """Keep what a run printed if all its samples succeeded and all that decides it is in files."""
    read = None if outcome.failed or outcome.left or settings.backend != "transformers" else _roots(settings, store)
    if read is None:
        return
    roots = sorted({*read, *CODE, str(store.folder), str(page)})
    kept = Finished(key=_key(settings), roots=roots, state=_state(roots), folder=str(store.folder), page=str(page),
                    samples=outcome.samples, notes=store.manifest.warnings, answer=answer, shown=list(shown))
    replace_file(store.folder / FILE, kept.model_dump_json() + "\n")


def _key(settings: "RunConfig") -> str:
    """Return a hash of the settings and of everything outside files that may change what they mean."""
    devices = sorted(str(path) for path in Path("/dev").glob("nvidia[0-9]*"))
    given = sorted((name, str(value)) for name, value in vars(settings).items())
    facts = [given, str(Path.cwd()), sys.version, devices,
             [os.environ.get(name) for name in VARIABLES], [version_of(name) for name in PACKAGES]]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _roots(settings: "RunConfig", store: "Store") -> set[str] | None:
    """Return the files and folders that a run reads; None if it may read others, such as those of a user's task."""
    from harness.models.source import source, split_dtype
    from harness.plugins.data import VARIABLE
    from harness.plugins.image_rows import WITH_IMAGES
    from harness.plugins.registry import STRATEGIES, TASKS
    from harness.plugins.spec import Spec

    found, manifest = set(map(str, settings.plugins)), store.manifest
    models = (settings.model, settings.draft, settings.tokenizer, settings.scorer)
    for model in (source(split_dtype(name)[0]) for name in models if name):
        path = Path(model.place, model.gguf or "")
        if not path.exists():
            return None
        found.add(str(path))
    if not all(Path(head).exists() for head in settings.heads):
        return None
    found |= set(settings.heads)
    if any(STRATEGIES.file(entry.name) is None for entry in manifest.strategies):
        return None
    folders = [Path(), *(Path(place) for place in (settings.data, os.environ.get(VARIABLE)) if place)]
    for entry in manifest.tasks:
        if Spec.parse(entry.spec).name not in TASKS.built_in() or entry.data.endswith(WITH_IMAGES):  # it reads others
            return None
        for origin in entry.data.split("; "):
            if Path(origin).exists():
                found.add(origin)
            elif origin != "embedded" and len(folders) > 1:  # a folder of data may get the rows that came from the hub
                return None
    specs = [*(entry.spec for entry in manifest.strategies), *(entry.spec for entry in manifest.tasks)]
    values = [value for spec in specs for stage in Spec.parse(spec).stages for value in stage.knobs.values()]
    named = (str(folder / value) for folder in folders for value in values)
    return found | {path for path in named if os.path.exists(path)}  # also a value that is too long for a name


def _state(roots: Iterable[str]) -> str:
    """Return a hash of the names, sizes and times of change of all files below `roots`."""
    digest = hashlib.sha256()
    for root in roots:
        for path in _files(Path(root)):
            try:
                found = path.stat()
                digest.update(f"{path}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
            except OSError:
                digest.update(f"{path}\0absent\n".encode())
    return digest.hexdigest()


def _files(root: Path) -> Iterator[Path]:
    """Yield a file, or the files of a folder in order, without what a report, a lock or Python writes there."""
    if not root.is_dir():
        yield root
        return
    left_out = {"__pycache__", *(("report", FILE, LOCK, HOLDER) if (root / "manifest.json").exists() else ())}
    for path in sorted(root.iterdir()):
        if path.name not in left_out:
            yield from _files(path)
