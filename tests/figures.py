"""Reports without figures, whose drawing takes most of their time."""

import pytest

from harness.report import plots


def leave_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw no figure until the end of the test."""
    for kinds in ("of_tables", "of_samples"):
        monkeypatch.setattr(plots, kinds, lambda *given: {})
