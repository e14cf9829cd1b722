"""The errors a user sees: one sentence that says what to do."""

import difflib
import re
import sys
import textwrap
from collections.abc import Callable, Iterable


class UserError(Exception):
    """An error in the user's input: the message is one sentence for the user, and `code` is the exit code.

    `details` is printed before the sentence.
    """

    code: int = 2
    details: str = ""


class Unsupported(Exception):
    """A strategy cannot run in this set-up: the message is the reason shown in its cell."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return ` Did you mean 'x'?` for the nearest known name, or the list of known names if none is similar."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f" Did you mean '{near[0]}'?"
    return f" Known: {', '.join(names)}." if names else ""


def wrong_input(error: UserError | OSError) -> str:
    """Return the sentence to print for an error; re-raises an OSError that is not about a file."""
    if isinstance(error, UserError):
        return str(error)
    if error.filename is None:
        raise error
    return f"{error.filename}: {error.strerror}."


def first_sentence(error: Exception) -> str:
    """Return the first sentence of a library's error, on one short line."""
    first = re.split(r"(?<=[a-z)'])[.:?!] ", " ".join(str(error).split()), maxsplit=1)[0]
    return textwrap.shorten(first, 200, placeholder=" …").rstrip(".") or type(error).__name__


def program(main: Callable[[], None]) -> None:
    """Run `main` as a program that exits with one sentence and code 2 on wrong input."""
    try:
        main()
    except (UserError, OSError) as error:
        print(f"Error: {wrong_input(error)}", file=sys.stderr)
        sys.exit(2)
