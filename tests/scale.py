"""The size of tests: small in `make test`, which is for every edit, and full in `make test-all`."""

QUICK = False  # tests/conftest.py sets it before it imports any test


def scaled(quick: int, whole: int) -> int:
    """Return `quick` in `make test`, else `whole`."""
    return quick if QUICK else whole
