"""Writes the answers that a page has no room for as scripts beside it, which the page loads when it needs them."""

import hashlib
from pathlib import Path

from harness.store.files import replace_file

FOLDER = "answers"  # beside the page


class Beside:
    """Writes blocks to `answers/*.js` in a report's `folder`; their names follow from their contents.

    A page that is written again therefore never meets the blocks of another one, and blocks that stay are not written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.names = folder / FOLDER, set[str]()

    def __call__(self, packed: str) -> str:
        """Write a block in base64, and return its name."""
        name = hashlib.sha256(packed.encode()).hexdigest()[:16]
        path = self.folder / f"{name}.js"
        if not path.exists():
            replace_file(path, f'decodebench("{name}","{packed}");\n')
        self.names.add(name)
        return name

    def tidy(self) -> None:
        """Remove the blocks of earlier pages, once the new page is written."""
        for path in self.folder.glob("*.js"):
            if path.stem not in self.names:
                path.unlink()
        if self.folder.exists() and not self.names:
            self.folder.rmdir()
