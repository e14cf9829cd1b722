"""Measure the time and memory of merging, reporting and resuming many records.

`python -m benchmarks.records [--records 400000] [--shards 50] [--folder DIR]`: writes the shards of a run of 50
strategies and 6 tasks with made-up records, merges them, does every other job on the merged run, each in a new process,
and prints its seconds and its peak memory in MB, that of its child processes included. Exits 1 when one takes more than
2 GB or 2 minutes. Reports need two cores for that.
"""

import argparse
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path

import psutil

from harness.store.folder import Store
from harness.store.schema import Manifest, Record
from harness.store.shard import Shard
from tests.runs import STRATEGIES, Row, realistic, write

MEGABYTES, SECONDS = 2000.0, 120.0
TASKS = ("nano_qa", "nano_story")  # beside the four of the tests
VARIANTS = 50  # strategies
DRAWN = 30  # examples with their own random records; the others are copies under another name
LENGTHS = (20, 100)  # tokens of an answer
JOBS = {
    "merge": ["-m", "harness.cli", "merge"],  # and report
    "report": ["-m", "harness.cli", "report"],
    "summary": ["-c", "import sys; from pathlib import Path; from harness.store.folder import Store\n"
                "from harness.measure.summary import summarise; summarise(Store.open(Path(sys.argv[1])))"],
    "resume": ["-c", "import sys; from pathlib import Path; from harness.store.folder import Store\n"
               "store = Store.open(Path(sys.argv[1]))\n"
               "with Store.begin(store.folder, store.manifest) as store: store.finished()"],
}


def measure(name: str, folder: Path) -> int:
    """Run one job on the run in `folder` in a fresh process; return 1 if it failed or exceeded a limit, else 0."""
    start, peak = time.perf_counter(), 0.0
    process = psutil.Popen([sys.executable, *JOBS[name], str(folder)], stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, _megabytes(process))
        time.sleep(0.5)
    wall = time.perf_counter() - start
    print(f"{name}: {wall:.1f} s, {peak:.0f} MB at the peak in all its processes", flush=True)
    return int(process.returncode != 0 or wall > SECONDS or peak > MEGABYTES)


def _megabytes(process: psutil.Process) -> float:
    """Return the memory of a process and of those that it started; what several share counts once."""
    try:
        return sum(one.memory_full_info().pss for one in (process, *process.children(recursive=True))) / 1e6
    except (psutil.NoSuchProcess, psutil.AccessDenied):  # it has just ended
        return 0.0


def strategies() -> list[Row]:
    """Return greedy decoding, and the other strategies of the tests under many names."""
    others = [(f"{spec},number={number}", *rest) for number in range(VARIANTS) for spec, *rest in STRATEGIES[1:]]
    return [STRATEGIES[0], *others[:VARIANTS - 1]]  # type: ignore[list-item]


def large(folder: Path, records: int, shards: int) -> None:
    """Write the shards of a run of at least `records` records into `folder`."""
    drawn = realistic(folder.with_name(f"{folder.name}.drawn"), DRAWN, strategies(), LENGTHS, TASKS)
    examples = -(-records // (VARIANTS * (len(TASKS) + 4)))
    lines = defaultdict[tuple[str, int], list[str]](list)
    for record in map(_with_ends, drawn.records()):
        lines[record.task, int(record.example.rpartition("/")[2])].append(record.model_dump_json() + "\n")
    tasks = [task.model_copy(update={"examples": examples}) for task in drawn.manifest.tasks]
    manifest = drawn.manifest.model_copy(update={"tasks": tasks, "planned": VARIANTS * len(tasks) * examples})
    order = [(task.spec, number) for task in tasks for number in range(examples)]
    random.Random(0).shuffle(order)
    with ExitStack() as stack:
        files = [stack.enter_context(store.path.open("w", encoding="utf-8"))
                 for store in _shards(folder, manifest, len(order), shards)]
        for place, (task, number) in enumerate(order):
            files[place % shards].writelines(re.sub(r'"example":"\w+/\d+"', f'"example":"{task}/{number}"', line)
                                             for line in lines[task, number % DRAWN])


def _shards(folder: Path, manifest: Manifest, examples: int, shards: int) -> Iterator[Store]:
    for number in range(1, shards + 1):
        shard = Shard(number, shards)
        own = {"config": manifest.config | {"shard": f"{number}/{shards}"},
               "planned": VARIANTS * len(range(number - 1, examples, shards))}
        yield write(folder / shard.folder, manifest.model_copy(update=own), [])


def _with_ends(record: Record) -> Record:
    """Return the record with the places of its tokens in the text, as `run` writes them."""
    turns = [turn.model_copy(update={"ends": list(accumulate(len(word) + 1 for word in turn.text.split(" ")))})
             for turn in record.turns]
    return record.model_copy(update={"turns": turns})


def main() -> None:
    """Write the shards, and run each job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--shards", type=int, default=50)
    parser.add_argument("--folder", type=Path, help="new folder, or one of an earlier call [a temporary folder]")
    parser.add_argument("--jobs", nargs="*", choices=JOBS, default=list(JOBS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, start = options.folder or Path(temporary) / "run", time.perf_counter()
        if not folder.exists():
            writer = get_context("spawn").Process(target=large, args=(folder, options.records, options.shards))
            writer.start()  # in a process of its own: the memory peak is inherited by child processes
            writer.join()
        size = sum(path.stat().st_size for path in folder.glob("shard-*/records/*.jsonl"))
        print(f"{options.records} records, {size / 1e6:.0f} MB, after {time.perf_counter() - start:.1f} s", flush=True)
        sys.exit(max(measure(name, folder) for name in options.jobs))


if __name__ == "__main__":
    main()
