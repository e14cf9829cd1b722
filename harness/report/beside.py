"""Writes the answers that a page has no room for as scripts beside it, which the page loads when it needs them."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.store.files import replace_file

FOLDER = "answers"  # beside the page


class Beside:
    """Writes blocks to `answers/*.js` in a report's `folder`; their names follow from their contents.

    A page that is written again therefore never meets the blocks of another one, and blocks that stay are not written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder / FOLDER

    def __call__(self, packed: str) -> str:
        """Write a block in base64, and return its name."""
        name = hashlib.sha256(packed.encode()).hexdigest()[:16]
        path = self.folder / f"{name}.js"
        if not path.exists():
            replace_file(path, f'decodebench("{name}","{packed}");\n')
        return name

    @contextmanager
    def tidy(self) -> Iterator[set[str]]:
        """Yield a set for the names of the new page's blocks, and keep only these; if it fails, those of the old page.
        """
        old, new = {path.stem for path in self.folder.glob("*.js")}, set[str]()
        try:
            yield new
        except BaseException:
            self._keep(old)
            raise
        self._keep(new)

    def _keep(self, names: set[str]) -> None:
        for path in self.folder.glob("*.js"):
            if path.stem not in names:
                path.unlink()
        if self.folder.exists() and not any(self.folder.iterdir()):
            self.folder.rmdir()
