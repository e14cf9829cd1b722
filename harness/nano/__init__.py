"""The embedded model family: a generated corpus, a tokenizer, a trainer and the shipped weights."""

from pathlib import Path

NAMES = ("nano", "nano-draft")


def weights(name: str) -> Path:
    """Return the folder of the shipped model `name`; raises ValueError for a name that is not in NAMES."""
    if name not in NAMES:
        raise ValueError(f"There is no shipped model called {name!r}; the shipped models are {', '.join(NAMES)}.")
    return Path(__file__).parent / "weights" / name


HEADS = Path(__file__).parent / "heads"
"""The folder of the shipped heads of nano, one for each kind."""
