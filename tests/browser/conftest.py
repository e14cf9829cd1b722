import shutil
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

AXE = (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


HELPERS = """
const seen = {}, pause = () => new Promise((resolve) => setTimeout(resolve, 100));
const find = (selector) => [...document.querySelectorAll(selector)];
await pause();
"""


def evaluate(page: Page, script: str) -> Any:
    """Run a script in the page, and return what it puts into `seen`."""
    return page.evaluate(f"async () => {{ {HELPERS} {script}; return seen; }}")


class Visit(Protocol):
    """Opens a page, its text or its file, at a fragment; `options` are those of a browser's context.

    With `missing`, the console may say that a file beside the page is not there.
    """

    def __call__(self, where: str | Path, fragment: str = "", missing: bool = False, **options: Any) -> Page: ...


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """A browser for all tests."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Browser, tmp_path: Path) -> Iterator[Visit]:
    """Pages that may neither have an error nor ask for anything but themselves and the answers beside them."""
    problems, contexts = list[str](), list[BrowserContext]()

    def opened(where: str | Path, fragment: str = "", missing: bool = False, **options: Any) -> Page:
        path = where if isinstance(where, Path) else tmp_path / "page.html"
        if isinstance(where, str):
            path.write_text(where, encoding="utf-8")
        contexts.append(chromium.new_context(**options))
        contexts[-1].set_default_timeout(15_000)
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: None if missing and "ERR_FILE_NOT_FOUND" in message.text
                else problems.append(message.text))
        page.on("request", lambda request: None if _own(request.url, path) else problems.append(request.url))
        page.goto(path.as_uri() + fragment)
        page.wait_for_selector("html[data-ready=true]")
        return page

    yield opened
    for context in contexts:
        context.close()
    assert problems == []


def _own(url: str, path: Path) -> bool:
    """Return whether a request is for the page, for answers beside it, or for data that it holds."""
    beside = path.parent.as_uri() + "/answers/"
    return url.partition("#")[0] == path.as_uri() or url.startswith(("data:", "blob:", beside))
