"""Where the real data sets lie on this machine, for the tests that want them; the repository holds none."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest


@functools.cache  # asked when tests are collected: some of them unset the variable
def folder() -> Path | None:
    """`$DECODEBENCH_DATA`, or `shared/data` beside the repository; None when neither is there."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    places = [Path(os.environ["DECODEBENCH_DATA"])] if os.environ.get("DECODEBENCH_DATA") else [beside]
    return next((place for place in places if place.is_dir()), None)


def needs_real_data(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test as one of real rows, which is skipped where there are none."""
    absent = "real data is absent: set DECODEBENCH_DATA to a folder with gsm8k, humaneval and mt_bench"
    return pytest.mark.real(pytest.mark.skipif(folder() is None, reason=absent)(test))
