"""How much a test does: little in `make test`, which is for every edit, and all of it in `make test-all`."""

QUICK = False  # tests/conftest.py sets it before it imports any test


def scaled(quick: int, whole: int) -> int:
    """`quick` in `make test`, else `whole`."""
    return quick if QUICK else whole
