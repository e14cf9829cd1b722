"""The base class of strategies and tasks: a frozen dataclass whose fields are its knobs."""

import dataclasses
import types
import typing
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from harness.errors import UserError, suggestion
from harness.plugins.spec import Spec

T = TypeVar("T")
Scalar = str | int | float | bool


@dataclass(frozen=True)
class Knob:
    """The declaration of a knob: help text, inclusive range or choices, values for sweeps; a `file` may be a path.

    `also` is its name in `generate` of transformers, by which it can be given too.
    """

    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[Scalar, ...] = ()
    sweep: tuple[Scalar, ...] = ()
    file: bool = False
    also: str = ""

    def problem(self, value: Scalar | None) -> str | None:
        """Return why `value` is not allowed, or None if it is; None and the empty text always are."""
        if value is None or value == "":
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
    also: str = "",
) -> T:
    """Declare a knob: the paper's default, a description, its inclusive range or choices, and values for sweeps.

    A `file` knob may be the path of a file or folder, whose content is then part of the run's identity. `also` is the
    knob's name in `generate` of transformers, by which it can be given too.
    """
    about = Knob(help, low, high, choices, sweep, file, also)
    return dataclasses.field(default=default, metadata={"knob": about})


class _PerInstance:
    def __init__(self, default: Any, compute: Callable[[Any], Any]) -> None:
        self.default, self.compute = default, compute

    def __get__(self, instance: object | None, owner: type) -> Any:
        return self.default if instance is None else self.compute(instance)


def per_instance(default: T, compute: Callable[[Any], T]) -> T:
    """Declare an attribute that is `default` on the class and `compute(instance)` on each instance."""
    return typing.cast(T, _PerInstance(default, compute))


@dataclass(frozen=True)
class Plugin:
    """A strategy or a task: its name and its knobs identify it.

    `name` is the name of its file or entry point.
    """

    name: ClassVar[str]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = cls.__module__.rpartition(".")[2]

    def __post_init__(self) -> None:
        """Raise `UserError` if a knob is out of its range."""
        for key, about in self.knobs().items():
            if problem := about.problem(getattr(self, key)):
                raise UserError(f"{self.name}: knob '{key}' {problem}, not {getattr(self, key)}.")

    @classmethod
    def knobs(cls) -> dict[str, Knob]:
        """Return the declarations of the knobs by name, in the order of the fields."""
        return {f.name: f.metadata.get("knob", Knob("")) for f in dataclasses.fields(cls)}

    @classmethod
    def configured(cls, options: Mapping[str, str], **more: Any) -> Self:
        """Create a plugin from knobs as text, as typed on the command line, and other fields in `more`.

        Raises `UserError` for an unknown knob or an invalid value.
        """
        types_of = typing.get_type_hints(cls)
        values = dict[str, Any]()
        for given, text in options.items():
            if (key := cls.knob_name(given)) in values:
                raise UserError(f"{cls.name}: the knob '{key}' is given twice, the second time as '{given}'.")
            values[key] = _parse(cls.name, key, _relative_path(text) if cls.knobs()[key].file else text, types_of[key])
        return cls(**values, **more)

    @classmethod
    def knob_name(cls, given: str) -> str:
        """Return the name of a knob that may be `given` by its name in transformers; raises `UserError` for no knob."""
        known = cls.knobs()
        key = {about.also: key for key, about in known.items() if about.also and given not in known}.get(given, given)
        if key not in known:
            raise unknown_knob(cls.name, key, known)
        return key

    def values(self) -> dict[str, Scalar | None]:
        """Return the value of every knob."""
        return {key: getattr(self, key) for key in self.knobs()}

    def files(self) -> dict[str, Path]:
        """Return the paths of the existing files and folders that knobs name, by knob."""
        named = {key: Path(str(getattr(self, key))) for key, about in self.knobs().items() if about.file}
        return {key: path for key, path in named.items() if path.exists()}

    def spec(self) -> str:
        """Return the canonical spec, `name:k=v,k=v`, with every knob that is not empty, in the order of the fields."""
        return str(Spec.of(self.name, **{key: _written(value) for key, value in self.values().items() if value != ""}))


def unknown_knob(plugin: str, given: str, known: Collection[str]) -> UserError:
    """Return the error for a knob that a plugin does not have."""
    return UserError(f"{plugin} has no knob '{given}'.{suggestion(given, known) or ' It has no knobs.'}")


def knob_rows(cls: type[Plugin]) -> list[tuple[str, str, str, str, str]]:
    """Return a table row per knob: name, default, range or choices, values for sweeps, description."""
    rows = []
    for key, about in cls.knobs().items():
        rows.append((key, _written(getattr(cls, key)), ", ".join(map(str, about.choices)) or _range(about),
                     ", ".join(map(_written, about.sweep)), about.help))
    return rows


def _range(about: Knob) -> str:
    """Return the allowed numbers in words; empty where any value is allowed."""
    if about.low is not None and about.high is not None:
        return f"{_written(about.low)} … {_written(about.high)}"
    if about.low is not None:
        return f"at least {_written(about.low)}"
    return "" if about.high is None else f"at most {_written(about.high)}"


def _relative_path(path: str) -> str:
    """Return a path relative to the current folder if it is below it, so that both spellings give the same spec."""
    full, here = Path(path).expanduser(), Path.cwd()
    relative = full.relative_to(here) if full.is_relative_to(here) else full
    return str(relative) if relative.exists() else path


def _written(value: Scalar | None) -> str:
    """Return the shortest text from which the same value can be parsed."""
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
