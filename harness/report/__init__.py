"""Writes the report of one or several runs: CSV, Markdown, plots and an HTML page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.store.files import replace_file

if TYPE_CHECKING:
    from harness.report.detail import Contents
    from harness.store.folder import Store


def write(stores: "Sequence[Store]", folder: Path, contents: "Contents | None" = None) -> Path:
    """Write summary.csv, summary.md, plots/*.png, *.svg and *.pdf, and index.html; returns the path of index.html.

    Answers that the page has no room for are in answers/*.js.

    Every other table is also a CSV file. `contents` is `collect(stores)`, if it is already computed. With several runs,
    rows have a column `run`. Files are replaced atomically.
    """
    from harness.report import detail, figures, page, ranking, tables, texts
    from harness.report.beside import Beside
    from harness.report.page_samples import samples_of

    contents = contents or detail.collect(stores)
    summary = contents.summary
    for section in contents.sections:
        replace_file(folder / f"{section.kind.name}.csv", texts.csv(section))
    replace_file(folder / "summary.csv", tables.csv(summary))
    replace_file(folder / "summary.md", tables.bullets("Verdict", contents.verdict)
                 + ranking.markdown(stores, contents.summaries) + tables.markdown(summary)
                 + texts.markdown(contents.sections))
    beside = Beside(folder)
    with figures.drawing(contents, folder) as draw:
        samples = samples_of(stores, contents, beside)
        draw(samples[0])
        index = replace_file(folder / "index.html", page.render(stores, contents, samples))
    beside.tidy()
    return index
