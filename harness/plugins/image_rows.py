"""The field `image` of a row in a user's file: the file that it names, and its place in the question."""

import hashlib
from pathlib import Path
from typing import Any

from harness.plugins.task import IMAGE, ImageFile

WITH_IMAGES = ", with images"  # ends the origin of rows that name other files


def image_problem(path: Path, question: Any) -> str | None:
    """Return why an image or its places in a question (text, turns or messages) are invalid, else None."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path):
            pass
    except UnidentifiedImageError:
        return f"the image {path} is in no format that Pillow reads"
    except OSError as error:
        return f"the image {path} cannot be read ({error.strerror or error})"
    if (count := str(question).count(IMAGE)) > 1:
        return f"the text says {IMAGE} {count} times, but a row has one image"
    return None


def image_file(path: Path) -> ImageFile:
    """Return an image that a row names, with the hash of its contents."""
    return ImageFile(str(path), hashlib.sha256(path.read_bytes()).hexdigest())


def with_image(question: Any) -> Any:
    """Return a question (text, turns or messages) whose image comes first, unless it has a place for it."""
    if IMAGE in str(question):
        return question
    if isinstance(question, str):
        return f"{IMAGE}\n{question}"
    place = next(place for place, one in enumerate(question) if isinstance(one, str) or one["role"] == "user")
    first = question[place]
    changed = with_image(first) if isinstance(first, str) else first | {"content": with_image(first["content"])}
    return [*question[:place], changed, *question[place + 1:]]
