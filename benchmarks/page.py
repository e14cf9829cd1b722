"""Measure how a page opens, scrolls and shows an answer in a browser.

`python -m benchmarks.page REPORT [--rounds 5]`: REPORT is a folder that `report` wrote. Prints the size of its page and
of the answers beside it in MB, the median seconds until the page is drawn, until a task with its table of answers is,
and until an answer is, and the longest and the median frame in milliseconds while page and task are scrolled.
"""

import argparse
import shutil
import statistics
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

SCROLL = """async () => {
  const frames = [], last = document.documentElement.scrollHeight - innerHeight;
  let before = await new Promise(requestAnimationFrame);
  for (let place = 0; place <= last + 120 && frames.length < 300; place += 120) {
    scrollTo(0, place);
    const now = await new Promise(requestAnimationFrame);
    frames.push(now - before);
    before = now;
  }
  return frames;
}"""
DRAWN = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"
CLICK = "([selector]) => { document.querySelector(selector).click(); }"


def visit(page: Page, address: str) -> dict[str, float]:
    """Open the page, then a task, then an answer; return the seconds of each."""
    page.goto(address)
    page.wait_for_selector("html[data-ready=true]")
    found = {"page": page.evaluate(DRAWN) / 1000}
    for name, click, shown in (("task", "nav a:nth-child(2)", ".answers td a"),
                               ("answer", ".answers tbody tr:last-child td a", "#sample article pre")):
        start = page.evaluate("performance.now()")
        page.evaluate(CLICK, [click])
        page.wait_for_selector(f"{shown} >> visible=true")
        found[name] = (page.evaluate(DRAWN) - start) / 1000
    return found


def frames(page: Page, address: str, clicks: Iterable[str]) -> list[float]:
    """Return the milliseconds between frames while the page is scrolled."""
    page.goto(address)
    page.wait_for_selector("html[data-ready=true]")
    for click in clicks:
        page.evaluate(CLICK, [click])
        page.wait_for_selector(".answers td a >> visible=true")
    found: list[float] = page.evaluate(SCROLL)
    return found


@contextmanager
def fresh(browser: Browser) -> Iterator[Page]:
    """Yield a page in a context of its own, so that nothing is known from before."""
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        yield context.new_page()


def megabytes(paths: Iterable[Path]) -> float:
    """Return the size of files in 10⁶ bytes."""
    return sum(path.stat().st_size for path in paths) / 1e6


def main() -> None:
    """Open the page several times, each in a fresh context."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    index = options.report.resolve() / "index.html"
    beside = list((index.parent / "answers").glob("*.js"))
    print(f"page {megabytes([index]):.2f} MB, {len(beside)} files beside it {megabytes(beside):.1f} MB")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])

        rounds = []
        for _ in range(options.rounds):
            with fresh(browser) as page:
                rounds.append(visit(page, index.as_uri()))
        for name in rounds[0]:
            print(f"{name}: {statistics.median(one[name] for one in rounds):.2f} s")
        for name, clicks in (("page", []), ("task", ["nav a:nth-child(2)"])):
            with fresh(browser) as page:
                times = frames(page, index.as_uri(), clicks)
            print(f"scrolling the {name}: {max(times):.0f} ms at most, {statistics.median(times):.0f} ms in the median")


if __name__ == "__main__":
    main()
