"""These tests run vLLM itself, in its own environment: `make test-vllm`; elsewhere they are skipped."""

from pathlib import Path

import pytest

from harness.backends.vllm_options import package

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip every test of this folder where there is no vLLM."""
    for item in items:
        if HERE in item.path.parents and package() is None:
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed: make test-vllm has an environment for it"))
