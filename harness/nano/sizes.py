"""The number of tokens of a text for the embedded models, without a model."""

from functools import cache
from typing import TYPE_CHECKING

from harness.nano import weights

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def tokens(text: str) -> int:
    """Return the number of tokens of a text."""
    return len(_tokenizer().encode(text).ids)


@cache
def _tokenizer() -> "Tokenizer":
    from tokenizers import Tokenizer  # here, because not every command needs the library

    return Tokenizer.from_file(str(weights("nano") / "tokenizer.json"))
