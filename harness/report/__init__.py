"""Writes the report of one or several runs: CSV, Markdown, plots and an HTML page."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from harness.store.files import replace_file

if TYPE_CHECKING:
    from harness.report.detail import Contents
    from harness.store.folder import Store


class Written(NamedTuple):
    """The contents of a report on disk, and the path of its index.html."""

    contents: "Contents"
    page: Path


def write(stores: "Sequence[Store]", folder: Path, contents: "Contents | None" = None) -> Written:
    """Write summary.csv, summary.md, plots/*.png, *.svg and *.pdf, and index.html.

    Answers that the page has no room for are in answers/*.js.

    Every other table is also a CSV file. `contents` is `collect(stores)`, if it is already computed. With several runs,
    rows have a column `run`. Files are replaced atomically. Samples of a run that goes on meanwhile are left out.
    """
    from harness.report import detail, figures, page
    from harness.report.beside import Beside
    from harness.report.page_samples import samples_of
    from harness.report.worker import worker

    lengths, beside = [store.length() for store in stores], Beside(folder)
    with beside.tidy() as blocks, worker(sum(lengths)) as pool:
        packed = pool.submit(samples_of, stores, lengths, beside)
        contents = contents or detail.collect(stores, lengths)
        jobs = [pool.submit(figures.draw_tables, contents, folder)]
        _write_tables(stores, contents, folder)
        index, _ = samples = packed.result()
        jobs.append(pool.submit(figures.draw_samples, contents, index, folder))
        html = page.render(stores, contents, samples)
        for job in jobs:
            job.result()
        blocks.update(name for task in index["tasks"].values() for name in task["blocks"])
        return Written(contents, replace_file(folder / "index.html", html))


def _write_tables(stores: "Sequence[Store]", contents: "Contents", folder: Path) -> None:
    from harness.report import ranking, tables, texts

    for section in contents.sections:
        replace_file(folder / f"{section.kind.name}.csv", texts.csv(section))
    replace_file(folder / "summary.csv", tables.csv(contents.summary))
    replace_file(folder / "summary.md", tables.bullets("Verdict", contents.verdict)
                 + ranking.markdown(stores, contents.summaries) + tables.markdown(contents.summary)
                 + texts.markdown(contents.sections))
