"""Measure the time and memory of resuming, summarising and reporting many records.

`python -m benchmarks.summary [--records 400000] [--folder DIR]`: writes a run of 50 strategies and 6 tasks with
made-up records, does each in a process of its own, and prints its seconds and its peak memory in MB. Exits 1 when one
takes more than 2 GB, or the report more than 5 minutes.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

from harness.store.folder import Store
from tests.runs import STRATEGIES, Row, realistic, write

MEGABYTES, SECONDS = 2000.0, 300.0
TASKS = ("nano_qa", "nano_story")  # beside the four of the tests
VARIANTS = 50  # strategies
DRAWN = 30  # examples with their own random records; the others are copies under another name
LENGTHS = (40, 160)  # tokens of an answer
JOBS = {
    "resume": ["-c", "import sys; from pathlib import Path; from harness.store.folder import Store\n"
               "store = Store.open(Path(sys.argv[1]))\n"
               "with Store.begin(store.folder, store.manifest) as store: store.finished()"],
    "summary": ["-c", "import sys; from pathlib import Path; from harness.store.folder import Store\n"
                "from harness.measure.summary import summarise; summarise(Store.open(Path(sys.argv[1])))"],
    "report": ["-m", "harness.cli", "report"],
}


def measure(name: str, folder: Path) -> int:
    """Run one job on the run in `folder` in a fresh process; return 1 if it failed or exceeded a limit, else 0."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *JOBS[name], str(folder)], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    print(f"{name}: {seconds:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of the processor), "
          f"{used.ru_maxrss / 1024:.0f} MB at the peak", flush=True)
    return int(status != 0 or seconds > SECONDS or used.ru_maxrss / 1024 > MEGABYTES)


def strategies() -> list[Row]:
    """Return greedy decoding, and the other strategies of the tests under many names."""
    others = [(f"{spec},number={number}", *rest) for number in range(VARIANTS) for spec, *rest in STRATEGIES[1:]]
    return [STRATEGIES[0], *others[:VARIANTS - 1]]  # type: ignore[list-item]


def large(folder: Path, records: int) -> None:
    """Write a run of at least `records` records."""
    drawn = realistic(folder.with_name(f"{folder.name}.drawn"), DRAWN, strategies(), LENGTHS, TASKS)
    examples = -(-records // (VARIANTS * (len(TASKS) + 4)))
    tasks = [task.model_copy(update={"examples": examples}) for task in drawn.manifest.tasks]
    store = write(folder, drawn.manifest.model_copy(update={"tasks": tasks}), [])
    with store.path.open("w", encoding="utf-8") as file:
        for copy in range(-(-examples // DRAWN)):
            for line in drawn.path.open(encoding="utf-8"):
                match = re.search(r'"example":"\w+/(\d+)"', line)
                assert match
                if (number := int(match[1]) + copy * DRAWN) < examples:
                    file.write(f"{line[:match.start(1)]}{number}{line[match.end(1):]}")


def main() -> None:
    """Write the run, and run each job."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=400_000)
    parser.add_argument("--folder", type=Path, help="new folder, or one of an earlier call [a temporary folder]")
    parser.add_argument("--jobs", nargs="*", choices=JOBS, default=list(JOBS))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, start = options.folder or Path(temporary) / "run", time.perf_counter()
        if not folder.exists():
            writer = get_context("spawn").Process(target=large, args=(folder, options.records))
            writer.start()  # in a process of its own: the memory peak is inherited by child processes
            writer.join()
        size = Store.open(folder).path.stat().st_size
        print(f"{options.records} records, {size / 1e6:.0f} MB, after {time.perf_counter() - start:.1f} s", flush=True)
        sys.exit(max(measure(name, folder) for name in options.jobs))


if __name__ == "__main__":
    main()
