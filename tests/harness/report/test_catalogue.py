"""Pages that are made from the code say what the code says."""

from pathlib import Path

import pytest

from harness.report.catalogue import catalogue

DOCS = Path(__file__).resolve().parents[3] / "docs"


@pytest.mark.slow  # it summarises every run of results/
def test_the_catalogue_is_true() -> None:
    assert (DOCS / "catalogue.md").read_text(encoding="utf-8") == catalogue(), \
        "make it again: python -m harness.report.catalogue > docs/catalogue.md"
