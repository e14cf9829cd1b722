"""A worker of a cluster: it loads the models of a run once, and decodes shards of it, one after the other."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from harness.cluster.files import Files, read_files, write_files
from harness.errors import UserError
from harness.run.plan import Plan, make
from harness.run.presets import with_defaults
from harness.run.runner import Outcome, carry_out, folder_of
from harness.store.config import RunConfig
from harness.store.environment import version_of
from harness.store.folder import Store
from harness.store.machine import machine_of
from harness.store.schema import Manifest, Record


class Described(NamedTuple):
    """A run as its workers see it: its manifest and folder, its numbers of samples and of blocks, and its code."""

    manifest: Manifest
    folder: Path
    samples: int
    blocks: int
    version: str | None


class Refused(NamedTuple):
    """A `UserError` of a worker, with its exit code and details."""

    sentence: str
    code: int
    details: str

    def error(self) -> UserError:
        """Return the error, to be raised where the user is."""
        error = UserError(self.sentence)
        error.code, error.details = self.code, self.details
        return error


class Begun(NamedTuple):
    """A shard begins: its folder as the worker has it, and whether the records to come have times."""

    files: Files
    timed: bool


class Ended(NamedTuple):
    """A shard ends: its folder, and the outcome."""

    files: Files
    outcome: Outcome


Message = Begun | Record | str | Ended | Refused
"""What a worker tells of a shard; a string is the label of the cell that begins."""


class Worker:
    """Loads the models for `config`, and decodes shards; `beside` workers share its machine."""

    def __init__(self, config: RunConfig, command: str, folder: str, beside: int) -> None:
        self.config, self.command, self.beside = config, command, beside
        self.plan: Plan | None = None
        with suppress(OSError):  # another machine may not have it
            os.chdir(folder)

    def describe(self) -> Described | Refused:
        """Load the models, and return what the run is."""
        try:
            plan = self._loaded()
            cells = list(plan.cells())
            return Described(plan.manifest, folder_of(plan), sum(len(cell.examples) for cell in cells),
                             len({cell.block for cell in cells}), version_of("decodebench"))
        except UserError as error:
            return _refused(error)

    def decode(self, shard: str, earlier: Files, spent: float) -> Iterator[Message]:
        """Decode what the `earlier` files of a shard lack, `spent` seconds after the run began; yield what happens."""
        messages: SimpleQueue[Message | None] = SimpleQueue()

        def work() -> None:
            try:
                self._decode(shard, earlier, spent, messages.put)
            except UserError as error:
                messages.put(_refused(error))
            finally:
                messages.put(None)

        with ThreadPoolExecutor(1) as pool:
            working = pool.submit(work)
            while (message := messages.get()) is not None:
                yield message
            working.result()

    def _loaded(self) -> Plan:
        if self.plan is None:
            plan = make(with_defaults(self.config), self.command)
            hardware = plan.manifest.environment["hardware"] | ({"workers": self.beside} if self.beside > 1 else {})
            environment = {**plan.manifest.environment, "hardware": hardware}
            self.plan = replace(plan, manifest=plan.manifest.model_copy(update={"environment": environment}))
        return self.plan

    def _decode(self, shard: str, earlier: Files, spent: float, tell: Callable[[Any], None]) -> None:
        with TemporaryDirectory() as folder:
            plan = shard_of(self._loaded(), shard, Path(folder))
            write_files(folder_of(plan), earlier)
            outcome = carry_out(plan, _Teller(plan, tell), began=time.perf_counter() - spent)
            tell(Ended(read_files(outcome.folder), outcome))


class _Teller:
    """A watcher that tells the driver what happens."""

    def __init__(self, plan: Plan, tell: Callable[[Any], None]) -> None:
        self.plan, self.tell = plan, tell

    def planned(self, total: int, done: int, folder: Path, warnings: Sequence[str]) -> None:
        timed = machine_of(Store.open(folder).manifest) == machine_of(self.plan.manifest)
        self.tell(Begun(read_files(folder), timed))

    def started(self, label: str) -> None:
        self.tell(label)

    def finished(self, record: Record) -> None:
        self.tell(record)


def shard_of(plan: Plan, shard: str, output: Path) -> Plan:
    """Return the plan of one shard of a run, whose folder lies in `output`."""
    config = replace(plan.config, shard=shard, output=output)
    described = plan.manifest.model_copy(update={"config": {**plan.manifest.config, "shard": config.shard}})
    return replace(plan, config=config, manifest=described)


def _refused(error: UserError) -> Refused:
    return Refused(str(error), error.code, error.details)
