"""A time budget: a run ends between two blocks when the next one may not be finished in time."""

from dataclasses import dataclass

from harness.backends.trace import Clock
from harness.store.schema import UNFINISHED, Manifest

AFTER = 15.0  # seconds for what follows the last block: metrics of texts, tables, plots and the page


@dataclass
class Budget:
    """The time until a run must end, `limit` seconds after it `began`; blocks tell how long the next one may take."""

    clock: Clock
    began: float
    limit: float
    block: int | None = None
    longest: float = 0.0
    since: float = 0.0

    def allows(self, block: int) -> bool:
        """Return whether a block may go on or begin; the first one always may."""
        now = self.clock()
        if self.block == block:
            return True
        if self.block is not None:
            self.longest = max(self.longest, now - self.since)
            if now + self.longest > self.began + self.limit - AFTER:
                return False
        self.block, self.since = block, now
        return True


def with_left(manifest: Manifest, left: int, samples: int, budget: str | None) -> Manifest:
    """Return the manifest of a run that ends with so many of its samples left, with a warning if a budget was spent."""
    warnings = [text for text in manifest.warnings if not text.startswith(UNFINISHED)]
    if left and budget:
        warnings.append(f"{UNFINISHED}{left} of {samples} samples were left when the budget of {budget} was spent; all "
                        "strategies have the same examples, and the same command goes on.")
    return manifest.model_copy(update={"warnings": warnings, "planned": samples})
