"""The folder of real data sets, for the tests that need them; the repository contains none."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

import pytest


@functools.cache  # called when tests are collected: some of them unset the variable
def folder() -> Path | None:
    """Return `$DECODEBENCH_DATA`, or `shared/data` beside the repository; None when neither exists."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    folders = [Path(os.environ["DECODEBENCH_DATA"])] if os.environ.get("DECODEBENCH_DATA") else [beside]
    return next((candidate for candidate in folders if candidate.is_dir()), None)


def needs_real_data(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that needs real rows; it is skipped without them."""
    absent = "real data is absent: set DECODEBENCH_DATA to a folder with gsm8k, humaneval and mt_bench"
    return pytest.mark.real(pytest.mark.skipif(folder() is None, reason=absent)(test))
