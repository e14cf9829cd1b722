"""Rows that other software wrote: only what is read of them, checked against its type."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationError

from harness.errors import UserError

Count = NonNegativeInt
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Row(BaseModel):
    """A row of a foreign file: only what is read of it, with its type."""

    model_config = ConfigDict(extra="ignore", frozen=True)


R = TypeVar("R", bound=Row)


def checked(kind: type[R], value: Any, where: str) -> R:
    """The row as `kind`; raises `UserError` that says which field is missing or of the wrong type."""
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "row"
        raise UserError(f"{where}: the field '{field}' is not as it should be ({first['msg']}).") from None


def equally_long(lists: Mapping[str, Sequence[Any]], where: str) -> None:
    """Raise `UserError` unless the lists of a row have one entry for each of the same things."""
    (first, one), *others = lists.items()
    for name, other in others:
        if len(other) != len(one):
            raise UserError(f"{where}: '{name}' has {len(other)} entries and '{first}' {len(one)}.")
