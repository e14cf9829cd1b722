"""A Ray cluster: connecting to one or starting one, and how many workers it has room for."""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import Any

from harness.cluster.worker import Worker
from harness.errors import UserError, first_sentence
from harness.store.config import RunConfig, named_value

LOCAL = "local"
TIMEOUT = 5.0  # seconds for a cluster to answer
STORE = 500_000_000  # bytes of shared memory for messages in a cluster of our own; Ray would take a third of all memory
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}


@dataclass(frozen=True)
class Needs:
    """The processor cores and GPUs of one worker."""

    cpus: int
    gpus: int

    def workers(self, resources: Mapping[str, float]) -> int:
        """Return the number of workers that a node has room for."""
        rooms = [resources.get("CPU", 0) // self.cpus]
        return int(min([*rooms, resources.get("GPU", 0) // self.gpus] if self.gpus else rooms))


@dataclass(frozen=True)
class Cluster:
    """A connected cluster with room for `capacity` workers; `worker` starts one of so many."""

    worker: Callable[[int], Any]
    capacity: int


@contextmanager
def connected(address: str, config: RunConfig, command: str) -> Iterator[Cluster]:
    """Connect to the cluster at `address`, or start one here for `local`; raises `UserError` if there is none.

    What Ray prints on standard output, such as that a worker was lost, is left out.
    """
    try:
        import ray
    except ImportError:
        raise UserError("--ray needs Ray: pip install 'decodebench[ray]'.") from None
    _check(address)
    own: dict[str, Any] = {"object_store_memory": STORE, "include_dashboard": False} if address == LOCAL else {}
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **own)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise _absent(address, first_sentence(error)) from None
        try:
            yield _cluster(config, command)
        finally:
            ray.shutdown()


def _check(address: str) -> None:
    """Raise `UserError` for an address that is none, or where nothing answers; Ray would try for minutes."""
    if address.startswith("ray://"):
        raise UserError("Start the command on a node of the cluster, for example with `ray job submit`, and give "
                        "--ray auto.")
    if address in (LOCAL, "auto"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--ray must be auto, HOST:PORT, or come without an address, not '{address}'.")
    try:
        socket.create_connection((host, int(port)), timeout=TIMEOUT).close()
    except (OSError, OverflowError) as error:
        raise _absent(address, str(error)) from None


def _absent(address: str, reason: str) -> UserError:
    return UserError(f"No Ray cluster answers at '{address}' ({reason}): start one with `ray start --head`, or give "
                     "--ray alone for one on this machine.")


def _cluster(config: RunConfig, command: str) -> Cluster:
    """Return the cluster; raises `UserError` if not one worker fits on a node."""
    import ray

    listed: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [dict(node["Resources"]) for node in listed if node["Alive"]]
    need = needs(config, nodes)
    rooms = [need.workers(node) for node in nodes]
    if not sum(rooms):
        gpus = f" and {need.gpus} GPUs" if need.gpus else ""
        raise UserError(f"A worker needs {need.cpus} processor cores{gpus}, and no node of the cluster has them: give "
                        "--threads N, or --device cpu.")
    actor = ray.remote(Worker).options(num_cpus=need.cpus, num_gpus=need.gpus)
    return Cluster(lambda count: actor.remote(config, command, os.getcwd(), min(count, max(rooms))), sum(rooms))


def needs(config: RunConfig, nodes: list[dict[str, float]]) -> Needs:
    """Return what one worker takes: `--threads` cores, and a GPU if nodes have some and `--device` is not cpu.

    Without a GPU and `--threads` it takes a whole node, since workers side by side would slow each other down. An
    engine with `tensor_parallel_size` takes as many GPUs, and a model with `--device-map` all those of a node.
    """
    gpus = max(node.get("GPU", 0) for node in nodes)
    if config.device == "cpu" or not gpus:
        return Needs(config.threads or int(max(1, min(node["CPU"] for node in nodes if node.get("CPU")))), 0)
    if config.device_map:
        return Needs(config.threads or 1, int(min(node["GPU"] for node in nodes if node.get("GPU"))))
    options = dict(named_value("--engine", text) for text in config.engine)
    return Needs(config.threads or 1, int(options.get("tensor_parallel_size", 1)))
