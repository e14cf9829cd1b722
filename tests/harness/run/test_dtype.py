"""What a run loads: the precision of its models."""

from dataclasses import replace

import pytest

from harness.run.loading import model_dtype
from harness.store.config import RunConfig


@pytest.mark.parametrize(("device", "dtype", "expected"), [
    ("cpu", None, "float32"), ("cuda", None, "bfloat16"), ("cuda:1", None, "bfloat16"),
    ("cpu", "bfloat16", "bfloat16"), ("cuda", "float32", "float32"), ("cuda:1", "float16", "float16"),
])
def test_the_precision_follows_the_device_unless_it_is_given(device: str, dtype: str | None, expected: str) -> None:
    assert model_dtype(replace(RunConfig(), device=device, dtype=dtype)) == expected
