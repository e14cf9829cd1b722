"""The files of a run's folder as they travel between machines."""

from pathlib import Path

from harness.store.files import replace_file
from harness.store.lock import HOLDER, LOCK

Files = dict[str, bytes]
"""The contents of files by their paths in the folder."""
MADE_HERE = ("report",)  # folders that each machine makes for itself


def read_files(folder: Path) -> Files:
    """Return the files of a run's folder, without its lock, its report and unfinished ones; empty if there is none."""
    found = Files()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and name.name not in (LOCK, HOLDER) and path.suffix != ".part" and \
                name.parts[0] not in MADE_HERE:
            found[name.as_posix()] = path.read_bytes()
    return found


def write_files(folder: Path, files: Files) -> None:
    """Write these files into a folder, each at once; raises `UserError` if one cannot be written."""
    for name, content in files.items():
        replace_file(folder / name, content)
