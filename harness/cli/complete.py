"""What the shell completes: names, found without importing a plugin."""

from collections.abc import Iterable

from harness.plugins.registry import STRATEGIES, STUDIES, TASKS


def strategies(incomplete: str) -> list[str]:
    """Return the strategies that begin as typed, after others that commas separate."""
    return _last_of_several(incomplete, STRATEGIES.names())


def tasks(incomplete: str) -> list[str]:
    """Return the tasks that begin as typed, after others that commas separate."""
    return _last_of_several(incomplete, TASKS.names())


def studies(incomplete: str) -> list[str]:
    """Return the studies that begin as typed."""
    return [name for name in STUDIES.names() if name.startswith(incomplete)]


def presets(incomplete: str) -> list[str]:
    """Return the presets that begin as typed."""
    from harness.run.presets import PRESETS  # here, because it imports pydantic, which no help needs

    return [name for name in PRESETS if name.startswith(incomplete)]


def plugins(incomplete: str) -> list[str]:
    """Return the strategies and tasks that begin as typed."""
    return sorted({*strategies(incomplete), *tasks(incomplete)})


def kinds(incomplete: str) -> list[str]:
    """Return what `list` lists and begins as typed."""
    known = ("strategies", "tasks", "studies", "models", "heads", "backends")
    return [name for name in known if name.startswith(incomplete)]


def _last_of_several(incomplete: str, names: Iterable[str]) -> list[str]:
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in names if name.startswith(last)]
