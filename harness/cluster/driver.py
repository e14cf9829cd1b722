"""Runs the shards of a run on a Ray cluster: workers decode, and the driver keeps what they tell in its own folder."""

import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from harness.cluster.files import read_files, write_files
from harness.cluster.ray_cluster import Cluster, connected
from harness.cluster.worker import Begun, Described, Ended, Refused
from harness.errors import UserError
from harness.run.budget import AFTER
from harness.run.runner import Outcome, Watcher
from harness.store.config import RunConfig
from harness.store.duration import seconds
from harness.store.environment import version_of
from harness.store.folder import Store, difference, refuse_other, set_aside
from harness.store.lock import locked
from harness.store.merge import merge, refuse_continued
from harness.store.schema import Manifest, Record, Sample
from harness.store.shard import Shard, shards_in

AUTO = "auto"
PER_WORKER = 4   # shards of a worker with `--shards auto`, so that all end at about the same time
LOSSES = 3       # times that a shard may be lost with its worker
LOADING = "loading the models"


class Display(Watcher, Protocol):
    """A watcher that divides the time to go by the number of `workers`, and can say a line."""

    workers: int

    def say(self, line: str) -> None:
        """Print one line."""
        ...


class Job(NamedTuple):
    """What a worker does: it loads, or decodes a shard whose files are kept in a folder here."""

    worker: Any
    shard: str = LOADING
    kept: "Kept | None" = None


class Kept:
    """The driver's copy of a shard's folder, complete after each sample; it is locked until `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stack = folder, ExitStack()
        self.stack.enter_context(locked(folder))
        self.store: Store | None = None

    def take(self, message: Begun | Record | Ended) -> None:
        """Write what a worker tells."""
        if isinstance(message, Record):
            assert self.store is not None
            self.store.append(message)
            return
        write_files(self.folder, message.files)
        if isinstance(message, Begun):
            self.store = Store.open(self.folder)
            self.store.path.parent.mkdir(exist_ok=True)
            self.store.timed = message.timed

    def close(self) -> None:
        """Release the folder."""
        self.stack.close()


def run(config: RunConfig, address: str, shards: str, watcher: Display, command: str, start_over: bool = False
        ) -> Outcome:
    """Run or resume `config` in `shards` parts on the cluster at `address`, and merge them.

    "auto" `shards` are as many as keep all workers busy until the end. Raises `UserError` before anything is written,
    when the same failure repeats, or when a shard is lost too often.
    """
    began = time.perf_counter()
    if config.backend == "openai":
        raise UserError("--ray loads models on its workers, and this one is loaded by a server: leave --ray out.")
    if config.shard:
        raise UserError("--ray makes all shards of the run: give their number with --shards, and leave --shard out.")
    if config.precision:
        raise UserError("--precision looks at all examples of a task, and a worker has only some: leave it or --ray "
                        "out.")
    if config.device.startswith("cuda:"):
        raise UserError("--ray gives each worker a GPU of its own: give --device cuda, or leave it out.")
    with connected(address, config, command) as cluster:
        return Driver(cluster, config, shards, watcher, began, start_over).run(command)


class Driver:
    """Gives shards to workers until none is left."""

    def __init__(self, cluster: Cluster, config: RunConfig, shards: str, watcher: Display, began: float,
                 start_over: bool) -> None:
        self.cluster, self.config, self.wanted, self.watcher = cluster, config, shards, watcher
        self.began, self.start_over = began, start_over
        self.todo, self.losses, self.outcomes = deque[str](), Counter[str](), list[Outcome]()
        self.active = dict[Any, Job]()
        self.workers = cluster.capacity if shards == AUTO else min(cluster.capacity, int(shards))
        self.described: Described | None = None

    def run(self, command: str) -> Outcome:
        """Run all shards and merge them; returns the outcome of the whole run."""
        self.watcher.say(f"Loading the models on {workers(self.workers)} of a Ray cluster.")
        try:
            for _ in range(self.workers):
                self._load()
            while self.described is None or self.todo or any(job.kept for job in self.active.values()):
                for waiting in self._ready():
                    self._hear(waiting)
        finally:
            for job in self.active.values():
                if job.kept:
                    job.kept.close()
        assert self.described is not None
        folder, samples = self.described.folder, self.described.samples
        if shards_in(folder):
            merge([folder], folder, command)
        known = sum(one.samples - one.left for one in self.outcomes)
        bugs = [one.traceback for one in self.outcomes if one.traceback]
        return Outcome(folder, sum(one.failed for one in self.outcomes), samples, bugs[0] if bugs else "",
                       samples - known)

    def _load(self) -> None:
        worker = self.cluster.worker(self.workers)
        self.active[worker.describe.remote()] = Job(worker)

    def _ready(self) -> list[Any]:
        import ray

        found, _ = ray.wait(list(self.active), num_returns=1, timeout=1.0)
        return list(found)

    def _hear(self, waiting: Any) -> None:
        """Take the next message of a worker; one that is lost is replaced, and its shard goes on elsewhere."""
        import ray
        from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError

        job = self.active[waiting]
        try:
            message = ray.get(waiting if job.kept is None else next(waiting))
        except StopIteration:
            self._finish(waiting)
            return self._give(job.worker)
        except (RayActorError, ObjectLostError, OutOfMemoryError):
            return self._lost(waiting)
        if isinstance(message, Refused):
            raise message.error()
        if isinstance(message, Described):
            self._finish(waiting)
            self._begin(message)
            return self._give(job.worker)
        self._note(job, message)

    def _note(self, job: Job, message: Begun | Record | str | Ended) -> None:
        assert job.kept is not None
        if isinstance(message, str):
            return self.watcher.started(f"{workers(len(self.active))} · {message}")
        job.kept.take(message)
        if isinstance(message, Record):
            self.watcher.finished(message)
        elif isinstance(message, Ended):
            self.outcomes.append(message.outcome)

    def _finish(self, waiting: Any) -> Job:
        job = self.active.pop(waiting)
        if job.kept:
            job.kept.close()
        return job

    def _lost(self, waiting: Any) -> None:
        """Replace a worker whose process, machine or last message was lost."""
        import ray

        job = self._finish(waiting)
        self.losses[job.shard] += 1
        if self.losses[job.shard] == LOSSES:
            what = LOADING if job.kept is None else f"decoding shard {job.shard}"
            raise UserError(f"A worker was lost {LOSSES} times while {what}: look for the reason, such as too "
                            "little memory, in Ray's logs; the same command goes on.")
        if job.kept:
            self.todo.appendleft(job.shard)
        ray.kill(job.worker)
        self._load()

    def _begin(self, described: Described) -> None:
        """Make the shards of the run when its first worker has described it; the others must describe the same run."""
        if self.described is not None:
            if differs := difference(self.described.manifest.identity(), described.manifest.identity()):
                raise UserError(f"The nodes of the cluster do not see the same run ({differs} differs): give them the "
                                "same models and data.")
            return
        if described.version != version_of("decodebench"):
            raise UserError(f"The nodes of the cluster have decodebench {described.version}, and this is "
                            f"{version_of('decodebench')}: install the same version.")
        folder = described.folder
        refuse_other(folder)
        aside = set_aside(folder) if self.start_over else None
        refuse_continued(folder)
        number = number_of_shards(self.wanted, folder, described.blocks, self.cluster.capacity)
        self.todo.extend(f"{one}/{number}" for one in range(1, number + 1))
        self.described = described
        done = sum(sample.status == "ok" for store in self._stores(described.manifest)
                   for sample in store.parts_of_records(Sample))
        self.watcher.workers = min(self.workers, number)
        notes = [f"The earlier run is now in {aside}."] if aside else []
        self.watcher.planned(described.samples, done, folder, [*notes, *described.manifest.warnings])

    def _stores(self, manifest: Manifest) -> Iterator[Store]:
        """Yield the shards that are on disk; raises `UserError` for one of another run."""
        for shard in self.todo:
            config = {**manifest.config, "shard": shard if len(self.todo) > 1 else None}
            if store := Store.resumed(self._folder(shard), manifest.model_copy(update={"config": config})):
                yield store

    def _folder(self, shard: str) -> Path:
        assert self.described is not None
        found = Shard.parse(shard)
        return self.described.folder / found.folder if found.shards > 1 else self.described.folder

    def _give(self, worker: Any) -> None:
        """Give a worker the next shard; without one, or when the time is spent, it is let go."""
        import ray

        spent = time.perf_counter() - self.began
        if self.outcomes and self.config.budget and spent > seconds(self.config.budget) - AFTER:
            self.todo.clear()
        if not self.todo:
            ray.kill(worker)
            return
        shard = self.todo.popleft()
        kept = Kept(self._folder(shard))
        telling = worker.decode.options(num_returns="streaming").remote(shard, read_files(kept.folder), spent)
        self.active[telling] = Job(worker, shard, kept)


def number_of_shards(wanted: str, folder: Path, blocks: int, workers: int) -> int:
    """Return the number of shards; raises `UserError` for more than blocks, or another number than a folder has."""
    before = shards_in(folder)
    if before and (len(before) > 1 or wanted not in (AUTO, str(min(before)))):
        raise UserError(f"{folder} has shards of {' and of '.join(map(str, sorted(before)))}: give --shards "
                        f"{min(before)}, or another folder with -o.")
    if before:
        return min(before)
    if wanted != AUTO and int(wanted) > blocks:
        raise UserError(f"The examples are {blocks} blocks: give at most {blocks} shards.")
    return min(blocks, PER_WORKER * workers) if wanted == AUTO else int(wanted)


def workers(count: int) -> str:
    """Return the number of workers in words."""
    return "1 worker" if count == 1 else f"{count} workers"
