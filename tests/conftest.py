"""The kinds of tests, and fixtures of several folders."""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import settings

from tests import scale

HERE = Path(__file__).parent
FOLDERS = ("law", "crash", "browser", "plugin", "vllm")  # where every test is of the kind that its folder names
REST = ("crash", "browser", "plugin", "real", "vllm", "slow")  # what `make test` leaves to `make test-all`
QUICK_ARCHS = ("llama", "gpt2")  # with rotary positions and without: architectures differ in positions and masks,
ABOVE = ("strategies", "law")    # of which tests of these folders see nothing: one architecture is enough for them

settings.register_profile("quick", max_examples=50, deadline=None, database=None, derandomize=True)
settings.register_profile("whole", max_examples=400, deadline=None, database=None)


def pytest_configure(config: pytest.Config) -> None:
    """Make tests small and deterministic in `make test`, and large in other runs."""
    scale.QUICK = config.option.markexpr == "quick"
    settings.load_profile("quick" if scale.QUICK else "whole")
    gc.disable()


def pytest_collection_finish() -> None:
    """Keep what was imported out of later garbage collections, which would search it again and again."""
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before tests are deselected by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its kind; `quick` tests are those of no kind that is slow or needs more than Python."""
    for item in items:
        folder = item.path.relative_to(HERE).parts[0]
        if folder in FOLDERS:
            item.add_marker(folder)
        if "p_value" in getattr(item, "fixturenames", ()):
            item.add_marker("law")
        call = getattr(item, "callspec", None)
        quick = QUICK_ARCHS[:1] if folder in ABOVE else QUICK_ARCHS
        if call is not None and call.params.get("arch", quick[0]) not in quick:
            item.add_marker("slow")
        if not any(item.get_closest_marker(kind) for kind in REST):
            item.add_marker("quick")


@pytest.fixture(autouse=True)
def same_torch() -> Iterator[None]:
    """Fail a test that leaves torch with more threads than before, which makes later tests slow, or without gradients.
    """
    torch = sys.modules.get("torch")  # the process that only hands out the tests does without
    before = torch and torch.get_num_threads()
    with torch.inference_mode(False) if torch else nullcontext():
        yield
        assert torch is None or (torch.is_grad_enabled() and torch.get_num_threads() <= before)


@pytest.fixture(autouse=True)
def without_figures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures out of the reports of `make test`, which draws them in tests/golden alone."""
    if scale.QUICK and request.path.relative_to(HERE).parts[0] in ("harness", "tasks"):
        from tests import figures  # imports matplotlib, which other folders do not need
        figures.leave_out(monkeypatch)


@pytest.fixture(params=["token", pytest.param("continuation", marks=pytest.mark.slow)])
def p_value(request: pytest.FixtureRequest) -> Callable[..., float]:
    """Test a strategy's distribution: few draws by token, and slowly, many draws by continuation."""
    from tests import chances  # imports torch, which the controller process does not need
    return chances.by_token if request.param == "token" else chances.by_continuation
