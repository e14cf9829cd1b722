"""Rows written by other software: the fields that are used, checked against their types."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from harness.errors import UserError

Count = NonNegativeInt
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Row(BaseModel):
    """Base of rows written by other software; fields that are not declared are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


R = TypeVar("R", bound=Row)


def checked(kind: type[R], value: Any, where: str) -> R:
    """Return the row as `kind`; raises `UserError` that names the field which is missing or of the wrong type."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "row"
        raise UserError(f"{where}: the field '{field}' is invalid ({first['msg']}).") from None


def equally_long(lists: Mapping[str, Sequence[Any]], where: str) -> None:
    """Raise `UserError` unless the lists of a row are equally long."""
    (first, values), *others = lists.items()
    for name, other in others:
        if len(other) != len(values):
            raise UserError(f"{where}: '{name}' has {len(other)} entries and '{first}' {len(values)}.")
