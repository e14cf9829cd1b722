"""Pages that are made from the code say what the code says."""

from pathlib import Path

import pytest

from harness.report.catalogue import catalogue
from harness.report.embedded_results import embedded_results

DOCS = Path(__file__).resolve().parents[3] / "docs"


def test_the_catalogue_is_true() -> None:
    assert (DOCS / "catalogue.md").read_text(encoding="utf-8") == catalogue(), \
        "make it again: python -m harness.report.catalogue > docs/catalogue.md"


@pytest.mark.slow  # it summarises every run of results/
def test_the_results_are_those_of_the_runs() -> None:
    assert (DOCS / "embedded-results.md").read_text(encoding="utf-8") == embedded_results(), \
        "make it again: python -m harness.report.embedded_results > docs/embedded-results.md"
