"""What the shell completes: names, found without importing a plugin."""

from harness.plugins.registry import STRATEGIES, TASKS
from harness.run.presets import PRESETS


def strategies(incomplete: str) -> list[str]:
    """Return the strategies that begin as typed, after others that commas separate."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in STRATEGIES.names() if name.startswith(last)]


def tasks(incomplete: str) -> list[str]:
    """Return the tasks that begin as typed, after others that commas separate."""
    before, comma, last = incomplete.rpartition(",")
    return [f"{before}{comma}{name}" for name in TASKS.names() if name.startswith(last)]


def presets(incomplete: str) -> list[str]:
    """Return the presets that begin as typed."""
    return [name for name in PRESETS if name.startswith(incomplete)]


def plugins(incomplete: str) -> list[str]:
    """Return the strategies and tasks that begin as typed."""
    return sorted({*strategies(incomplete), *tasks(incomplete)})


def kinds(incomplete: str) -> list[str]:
    """Return what `list` lists and begins as typed."""
    return [name for name in ("strategies", "tasks", "models", "backends") if name.startswith(incomplete)]
