"""Merges the shards of a run into one run: quality and counts of all machines, times of machines of one kind only."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from harness.errors import UserError
from harness.store.files import replace_file
from harness.store.folder import EXPECTED, TREES, Store, difference, refuse_other
from harness.store.lock import locked
from harness.store.machine import machine_of, without_times
from harness.store.schema import UNFINISHED, Manifest, Sample, TextMetrics
from harness.store.shard import Shard

MERGED = "merged.jsonl"  # beside the records that `run` adds to a merged run


class Part(NamedTuple):
    """A shard on disk, its place in the run, its machine, and its numbers of successful and of failed samples."""

    store: Store
    shard: Shard
    machine: str
    done: int
    failed: int


class Merged(NamedTuple):
    """A merged run, and what a reader must know of it."""

    store: Store
    notes: list[str]


def parts_in(folders: Sequence[Path]) -> list[Part]:
    """Return the shards that are these folders or lie in them; raises `UserError` for a folder without one."""
    found = dict[Path, Part]()
    for folder in folders:
        inside = sorted(path.parent for path in folder.glob("shard-*/manifest.json"))
        for path in inside or [folder]:
            store = Store.open(path)
            if not store.manifest.config.get("shard"):
                raise UserError(f"{path} is a whole run, not a shard of one: leave it out.")
            samples = Counter(sample.status for sample in store.parts_of_records(Sample))
            found[path.resolve()] = Part(store, Shard.parse(store.manifest.config["shard"]),
                                         machine_of(store.manifest), samples["ok"], samples["failed"])
    return sorted(found.values(), key=lambda part: (part.shard.number, part.store.folder))


def merge(folders: Sequence[Path], output: Path, command: str, machine: str | None = None) -> Merged:
    """Write the run of these shards to `output`, with the times of the machines whose description contains `machine`.

    By default these are the kind of machine with most samples. A shard that was run twice counts once, in its most
    complete run. Raises `UserError` for shards of different runs, and where `output` has something else, before
    anything is written.
    """
    parts = parts_in(folders)
    _refuse_different(parts)
    best = dict[int, Part]()
    for part in sorted(parts, key=lambda one: (one.done, -one.failed, one.store.manifest.created)):
        best[part.shard.number] = part
    chosen = [best[number] for number in sorted(best)]
    kept = _kind(chosen, machine)
    notes = _notes(chosen, kept)
    manifest = _manifest(chosen, kept, command, notes)
    refuse_other(output)
    refuse_continued(output)
    with locked(output):
        store = Store(output, manifest)
        _write(store, chosen, kept)
        store.replace_manifest(manifest)
    return Merged(store, notes)


def _refuse_different(parts: Sequence[Part]) -> None:
    """Raise `UserError` that names the first shard which is not of the same run as most others."""
    identities = [_identity(part.store.manifest) | {"shards": part.shard.shards} for part in parts]
    texts = [json.dumps(identity, sort_keys=True) for identity in identities]
    usual = texts.index(Counter(texts).most_common(1)[0][0])
    for part, identity in zip(parts, identities, strict=True):
        if differs := difference(identities[usual], identity):
            raise UserError(f"{part.store.folder} is of another run than {parts[usual].store.folder} ({differs} "
                            "differs): leave it out.")


def _identity(manifest: Manifest) -> dict[str, Any]:
    identity = manifest.identity()
    return identity | {"config": {**identity["config"], "shard": None}}


def _kind(parts: Sequence[Part], wanted: str | None) -> str:
    """Return the kind of machine whose times are kept; raises `UserError` if none or several are `wanted`."""
    samples = Counter[str]()
    for part in parts:
        samples[part.machine] += part.done
    named = [kind for kind in samples if wanted is None or wanted in kind]
    if wanted is not None and len(named) != 1:
        raise UserError(f"--machine must name one of these: {'; '.join(sorted(samples))}.")
    return max(named, key=lambda kind: (samples[kind], kind))


def _notes(parts: Sequence[Part], kept: str) -> list[str]:
    notes, shards = list[str](), parts[0].shard.shards
    if missing := [str(n) for n in range(1, shards + 1) if n not in {part.shard.number for part in parts}]:
        notes.append(f"{UNFINISHED}shards {', '.join(missing)} of {shards} are missing.")
    if unfinished := [part for part in parts if part.done + part.failed < (part.store.manifest.planned or 0)]:
        names = ", ".join(str(part.shard.number) for part in unfinished)
        notes.append(f"{UNFINISHED}shards {names} of {shards} have samples left.")
    if others := sorted({part.machine for part in parts} - {kept}):
        timed = sum(part.done for part in parts if part.machine == kept)
        notes.append(f"Two kinds of machines: quality and counts are of all {sum(part.done for part in parts)} "
                     f"samples, times and speed only of the {timed} on: {kept}. Others: {'; '.join(others)}.")
    return notes


def _manifest(parts: Sequence[Part], kept: str, command: str, notes: Sequence[str]) -> Manifest:
    manifests = [part.store.manifest for part in parts]
    first = next(part.store.manifest for part in parts if part.machine == kept)
    known = dict.fromkeys(text for one in manifests for text in one.warnings if not text.startswith(UNFINISHED))
    complete = len(parts) == parts[0].shard.shards and all(one.planned is not None for one in manifests)
    return first.model_copy(update={
        "command": command, "created": min(one.created for one in manifests), "warnings": [*notes, *known],
        "config": {**first.config, "shard": None}, "merged": [part.shard.folder for part in parts],
        "planned": sum(one.planned or 0 for one in manifests) if complete else None})


def _write(store: Store, parts: Sequence[Part], kept: str) -> None:
    """Write the records, and everything that a run keeps beside them, one shard after the other."""
    stores = [part.store for part in parts]
    replace_file(store.folder / "records" / MERGED, chain.from_iterable(
        _timed(part.store) if part.machine == kept else _untimed(part.store) for part in parts))
    for name in (TREES, EXPECTED, "divergences.jsonl"):
        if any((one.folder / name).exists() for one in stores):
            lines = chain.from_iterable(map(partial(_lines, name=name), stores))
            replace_file(store.folder / name, dict.fromkeys(lines) if name == EXPECTED else lines)
    metrics = [found for one in stores if (found := one.text_metrics())]
    if len(metrics) == len(stores):  # those of some answers alone would pass for those of all
        store.write_text_metrics(_texts(metrics))


def _lines(store: Store, name: str) -> Iterator[bytes]:
    """Yield the complete lines of a file of a run, if it exists."""
    path = store.folder / name
    if path.exists():
        with path.open("rb") as file:
            yield from (line for line in file if line.endswith(b"\n"))


def _timed(store: Store) -> Iterator[bytes]:
    for path in store.record_files():
        yield from _lines(store, str(path.relative_to(store.folder)))


def _untimed(store: Store) -> Iterator[bytes]:
    """Yield the records without times and memory."""
    for record in store.records():
        yield without_times(record).model_dump_json().encode() + b"\n"


def _texts(metrics: Sequence[TextMetrics]) -> TextMetrics:
    """Return the text metrics of all shards; MAUVE needs all answers at once, and is left out."""
    first = metrics[0]
    scores = {(score.key, score.text): score for one in metrics for score in one.scores}
    return first.model_copy(update={"tasks": sorted({task for one in metrics for task in one.tasks}),
                                    "scores": list(scores.values()), "likeness": []})


def refuse_continued(output: Path) -> None:
    """Raise `UserError` for a folder with records that a merge did not write."""
    if others := sorted(path for path in (output / "records").glob("*.jsonl") if path.name != MERGED):
        raise UserError(f"{output} has samples of its own ({others[0].name}): choose another folder with -o.")
