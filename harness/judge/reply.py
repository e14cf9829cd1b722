"""What every judge is: something that answers prompts, one reply each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.plugins.task import Message


@dataclass(frozen=True)
class Reply:
    """The text of a verdict, or the error in its place, with the calls it took and the tokens that were counted."""

    text: str | None = None
    error: str | None = None
    tries: int = 1
    tokens_in: int = 0
    tokens_out: int = 0


Save = Callable[[int, Reply], None]


class Judge(Protocol):
    """A model that judges: its name, where it is, and what it is asked with."""

    judge: str
    where: str
    settings: dict[str, Any]

    def answer(self, asked: Sequence[list[Message]], save: Save) -> str | None:
        """Answer each prompt, handing every reply to `save` with the prompt's number as soon as it is there.

        Returns why it ended before all was answered, None when it did not.
        """
        ...
