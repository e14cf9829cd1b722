"""What a strategy and a task have in common: a frozen dataclass whose fields are its knobs."""

import dataclasses
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from harness.errors import UserError, suggestion
from harness.plugins.spec import Spec

T = TypeVar("T")
Scalar = str | int | float | bool


@dataclass(frozen=True)
class Knob:
    """A knob's help text, inclusive range or choices, the values a sweep tries, and whether it may name a file."""

    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Scalar, ...] = ()
    sweep: tuple[Scalar, ...] = ()
    file: bool = False

    def problem(self, value: Scalar | None) -> str | None:
        """Why `value` is not allowed, or None; a knob that may be None has no range there."""
        if value is None:
            return None
        if self.choices and value not in self.choices:
            return f"must be one of {', '.join(map(str, self.choices))}"
        if isinstance(value, str | bool):
            return None
        if value != value or (self.low is not None and value < self.low):
            return f"must be at least {self.low:g}" if self.low is not None else "must be a number"
        if self.high is not None and value > self.high:
            return f"must be at most {self.high:g}"
        return None


def knob(
    default: T,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[Scalar, ...] = (),
    sweep: tuple[Scalar, ...] = (),
    file: bool = False,
) -> T:
    """Declare a knob: the paper's default, what it does, its inclusive range or choices, and its sweep values.

    A `file` knob may name a file or a folder, whose content is then part of a run's identity.
    """
    about = Knob(help, low, high, choices, sweep, file)
    return dataclasses.field(default=default, metadata={"knob": about})


class _Decided:
    def __init__(self, usual: Any, of: Callable[[Any], Any]) -> None:
        self.usual, self.of = usual, of

    def __get__(self, instance: object | None, owner: type) -> Any:
        return self.usual if instance is None else self.of(instance)


def decided(usual: T, of: Callable[[Any], T]) -> T:
    """A class attribute that each instance decides by itself: the class has `usual`, an instance what `of` gives."""
    return typing.cast(T, _Decided(usual, of))


@dataclass(frozen=True)
class Plugin:
    """A named, configured thing; its identity is its name and its knobs.

    `name` is the file's name, or the entry point's.
    """

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = cls.__module__.rpartition(".")[2]

    def __post_init__(self) -> None:
        """Refuse a knob out of its range with a `UserError`."""
        for key, about in self.knobs().items():
            if problem := about.problem(getattr(self, key)):
                raise UserError(f"{self.name}: knob '{key}' {problem}, not {getattr(self, key)}.")

    @classmethod
    def knobs(cls) -> dict[str, Knob]:
        """The knobs by name, in the order of the fields."""
        return {f.name: f.metadata.get("knob", Knob("")) for f in dataclasses.fields(cls)}

    @classmethod
    def configured(cls, options: Mapping[str, str], **more: Any) -> Self:
        """Build from text options as typed on the command line, and `more` fields that are no knobs.

        Raises `UserError` on a bad name or value.
        """
        types_of = typing.get_type_hints(cls)
        values: dict[str, Any] = {}
        for key, text in options.items():
            if key not in cls.knobs():
                known = suggestion(key, cls.knobs()) or " It has no knobs."
                raise UserError(f"{cls.name} has no knob '{key}'.{known}")
            values[key] = _parse(cls.name, key, _nearest(text) if cls.knobs()[key].file else text, types_of[key])
        return cls(**values, **more)

    def values(self) -> dict[str, Scalar | None]:
        """The value of every knob."""
        return {key: getattr(self, key) for key in self.knobs()}

    def files(self) -> dict[str, Path]:
        """The files and folders that knobs name, by knob; words such as `nano` name none."""
        named = {key: Path(str(getattr(self, key))) for key, about in self.knobs().items() if about.file}
        return {key: path for key, path in named.items() if path.exists()}

    def spec(self) -> str:
        """The canonical identity, `name:k=v,k=v`, with every knob in field order."""
        return str(Spec.of(self.name, **{key: _written(value) for key, value in self.values().items()}))


def described(cls: type[Plugin]) -> list[tuple[str, str, str, str, str]]:
    """A row a knob: name, default, range or choices, sweep, what it does."""
    rows = []
    for key, about in cls.knobs().items():
        ends = " … ".join(_written(end) for end in (about.low, about.high) if end is not None)
        rows.append((key, _written(getattr(cls, key)), ", ".join(map(str, about.choices)) or ends,
                     ", ".join(map(_written, about.sweep)), about.help))
    return rows


def _nearest(path: str) -> str:
    """A path as seen from the current folder when it lies below it, so that absolute and relative ones are the same."""
    whole, here = Path(path).expanduser(), Path.cwd()
    near = whole.relative_to(here) if whole.is_relative_to(here) else whole
    return str(near) if near.exists() else path


def _written(value: Scalar | None) -> str:
    """The shortest text that reads back as the same value."""
    if isinstance(value, float):
        return f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return str(value)


def _parse(owner: str, key: str, text: str, kind: Any) -> Scalar | None:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        if text.lower() == "none":
            return None
        kind = next(k for k in typing.get_args(kind) if k is not types.NoneType)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise UserError(f"{owner}: knob '{key}' must be true or false, not '{text}'.")
        return text.lower() == "true"
    try:
        return typing.cast(Scalar, kind(text)) if kind in (int, float) else text
    except ValueError:
        word = "a whole number" if kind is int else "a number"
        raise UserError(f"{owner}: knob '{key}' must be {word}, not '{text}'.") from None
