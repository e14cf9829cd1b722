"""How long a report of many records takes, and what memory.

`python -m benchmarks.summary [--records 100000] [--folder DIR]`: writes a run of so many made-up records, then
summarises and reports it in a process of its own, and prints the seconds and the peak in MB of both. Exits 1 when the
second takes more than 20 s or 1.5 GB.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing import get_context
from pathlib import Path

from tests.runs import STRATEGIES, realistic

SECONDS, MEGABYTES = 20.0, 1500.0
TASKS = 4


def report(folder: Path) -> int:
    """Report the run in `folder` in a fresh process; the exit code says whether it was fast and small enough."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "harness.cli", "report", str(folder)], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    print(f"report: {seconds:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of the processor), "
          f"{used.ru_maxrss / 1024:.0f} MB at the peak, of {SECONDS:.0f} s and {MEGABYTES:.0f} MB allowed")
    return int(status != 0 or seconds > SECONDS or used.ru_maxrss / 1024 > MEGABYTES)


def main() -> None:
    """Write the run and report it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="where to, or one of before [a temporary folder]")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, start = options.folder or Path(temporary) / "run", time.perf_counter()
        if not folder.exists():
            examples = -(-options.records // (TASKS * len(STRATEGIES)))
            writer = get_context("spawn").Process(target=realistic, args=(folder, examples))
            writer.start()  # elsewhere: what a process has held counts as its children's
            writer.join()
        size = sum(path.stat().st_size for path in (folder / "records").iterdir())
        print(f"{options.records} records, {size / 1e6:.0f} MB, after {time.perf_counter() - start:.1f} s")
        sys.exit(report(folder))


if __name__ == "__main__":
    main()
