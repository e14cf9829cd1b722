"""The first problems of each kind as a file, because drawing them takes seven seconds; `make problems` writes it."""

import gzip
import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import cache
from pathlib import Path

from harness.nano.problem import Problem

COUNT = 200  # problems of each kind and split
SPLITS = ("train", "test")
FILE = Path(__file__).with_name("problems.jsonl.gz")


def first(kind: str, split: str) -> list[Problem]:
    """Return the first `COUNT` problems of seed 0, or none if this split is not in the file."""
    return [problem for problem in _all() if problem.id.startswith(f"{kind}/{split}/")]


def save(problems: Iterable[Problem], file: Path = FILE) -> None:
    """Write problems, one a line; the same problems give the same bytes."""
    lines = "".join(json.dumps(asdict(problem)) + "\n" for problem in problems)
    file.write_bytes(gzip.compress(lines.encode(), mtime=0))


@cache
def _all() -> list[Problem]:
    rows = map(json.loads, gzip.decompress(FILE.read_bytes()).decode().splitlines())
    return [Problem(row["id"], tuple(row["turns"]), tuple(row["answers"]), row["check"]) for row in rows]
