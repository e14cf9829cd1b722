"""The planted mistakes of `tests.mutations` fit the code as it is; `python -m tests.mutations` tries them."""

from tests.mutations import MUTATIONS, ROOT


def test_every_snippet_is_found_once() -> None:
    gone = [(each.file, each.old) for each in MUTATIONS if (ROOT / each.file).read_text("utf-8").count(each.old) != 1]
    assert not gone, "these snippets have changed: write them anew, so that the mistake can still be planted"
