"""The interface of judges."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from harness.plugins.task import Message


@dataclass(frozen=True)
class Reply:
    """The text of a verdict or an error, with the number of tries and the token counts."""

    text: str | None = None
    error: str | None = None
    tries: int = 1
    tokens_in: int = 0
    tokens_out: int = 0


Save = Callable[[int, Reply], None]


class Judge(Protocol):
    """A model that judges: its name, its URL or weights, and its request settings."""

    judge: str
    where: str
    settings: dict[str, Any]

    def answer(self, prompts: Sequence[list[Message]], save: Save) -> str | None:
        """Answer each prompt, and pass every reply to `save` with the prompt's index as soon as it arrives.

        Returns why it stopped early, None if it answered all prompts.
        """
        ...
