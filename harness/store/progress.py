"""How far a run on disk is: its samples, and the process that works on it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from pydantic import BaseModel

from harness.store.folder import Store
from harness.store.lock import held_by


class TimedSample(BaseModel):
    """The status of a record, and its wall time in seconds."""

    status: Literal["ok", "failed"]
    seconds: float = 0.0


class Progress(NamedTuple):
    """The samples of a run that succeeded, failed and are left, None if unknown; seconds that the rest may take."""

    name: str
    done: int
    failed: int
    left: int | None
    seconds_left: float | None
    state: str


def runs_in(folders: Sequence[Path]) -> list[Store]:
    """Return the runs in these folders, and the shards inside them; raises `UserError` for a folder with neither."""
    found = list[Store]()
    for folder in folders:
        inside = sorted((path.parent for path in folder.glob("shard-*/manifest.json")), key=_numbers)
        if (folder / "manifest.json").exists() or not inside:
            found.append(Store.open(folder))
        found += map(Store.open, inside)
    return found


def progress(store: Store) -> Progress:
    """Return how far a run is; raises `UserError` for a broken record."""
    done, failed, seconds = 0, 0, 0.0
    for sample in store.parts_of_records(TimedSample):
        done, failed = done + (sample.status == "ok"), failed + (sample.status == "failed")
        seconds += sample.seconds if sample.seconds == sample.seconds else 0.0
    planned, holder = store.manifest.planned, held_by(store.folder)
    left = None if planned is None else planned - store.manifest.spared_samples - done - failed
    state = f"running: {holder}" if holder else "" if left is None else "stopped" if left else "done"
    place = store.folder.resolve()
    name = f"{place.parent.name}/{place.name}" if store.manifest.config.get("shard") else place.name
    return Progress(name, done, failed, left, seconds / done * left if done and left else None, state)


def _numbers(shard: Path) -> tuple[int, str]:
    """Sort shard-2 before shard-10."""
    number = shard.name.split("-")[1]
    return (int(number) if number.isdigit() else 0, shard.name)
