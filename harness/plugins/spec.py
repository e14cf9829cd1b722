"""Specs: strategies and tasks as text, `name:k=v,k=v`, and a strategy `b` that wraps `a`, `a:k=v+b:k=v`."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from harness.errors import UserError

COMMA = re.compile(r",(?![^:,]*=)")  # one that no knob follows: another spec does
SEPARATOR = re.compile(r"\+(?=[a-z]\w*(?::|\+|$))")  # a `+` inside a number or a path is no separator


@dataclass(frozen=True)
class Stage:
    """One plugin of a spec: its name, and its knobs as text."""

    name: str
    knobs: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `top_p:p=0.9,temperature=0.7`; raises `UserError` if it is malformed."""
        name, _, rest = text.partition(":")
        knobs: dict[str, str] = {}
        for item in filter(None, (part.strip() for part in rest.split(","))):
            key, equals, value = item.partition("=")
            if not equals or not value:
                raise UserError(f"In '{text}', write each knob as NAME=VALUE, not '{item}'.")
            if key.strip() in knobs:
                raise UserError(f"In '{text}', the knob '{key.strip()}' is given twice.")
            knobs[key.strip()] = value.strip()
        return cls(name.strip(), knobs)

    def __str__(self) -> str:
        """Return the text that `parse` accepts."""
        knobs = ",".join(f"{key}={value}" for key, value in self.knobs.items())
        return f"{self.name}:{knobs}" if knobs else self.name

    def only(self, keys: Collection[str]) -> "Stage":
        """Return the stage with only these of its knobs."""
        return replace(self, knobs={key: value for key, value in self.knobs.items() if key in keys})


@dataclass(frozen=True)
class Spec:
    """The stages of a spec: each wraps those before it, and the last one gives the spec its name."""

    stages: tuple[Stage, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a spec; raises `UserError` if it is malformed."""
        return cls(tuple(map(Stage.parse, SEPARATOR.split(text))))

    @classmethod
    def of(cls, name: str, **knobs: str) -> Self:
        """Return a spec of one stage."""
        return cls((Stage(name, knobs),))

    def __str__(self) -> str:
        """Return the text that `parse` accepts."""
        return "+".join(map(str, self.stages))

    @property
    def readable(self) -> bool:
        """Return whether parsing the text gives the same spec: no name or value contains a separator."""
        try:
            return Spec.parse(str(self)) == self
        except UserError:
            return False

    @property
    def name(self) -> str:
        """Return the name of the last stage."""
        return self.stages[-1].name

    @property
    def names(self) -> str:
        """Return the names of all stages, `a+b`."""
        return "+".join(stage.name for stage in self.stages)

    @property
    def knobs(self) -> Mapping[str, str]:
        """Return the knobs of the last stage as text."""
        return self.stages[-1].knobs

    @property
    def wrapped(self) -> "Spec | None":
        """Return the spec that the last stage wraps, None if it is the only stage."""
        return Spec(self.stages[:-1]) if len(self.stages) > 1 else None

    def changed(self, knobs: Mapping[str, str]) -> "Spec":
        """Return the spec with changed knobs of its last stage."""
        return Spec((*self.stages[:-1], Stage(self.name, {**self.knobs, **knobs})))


def separated(texts: Iterable[str] | None) -> list[str]:
    """Split `greedy,beam:width=4,length_penalty=0,top_p` into three specs; a text without any stays, to be refused."""
    return [spec for text in texts or () for spec in [one for one in COMMA.split(text) if one] or [text]]


def labels(specs: Iterable[str]) -> dict[str, str]:
    """Return a short label for each spec: its name, and the knobs that distinguish it from others of that name."""
    return shortened({text: Spec.parse(text) for text in specs})


def shortened(parsed: Mapping[str, Spec]) -> dict[str, str]:
    """Return what `labels` does of specs that are parsed already, by any keys."""
    short = {}
    for text, spec in parsed.items():
        alike = [other for other in parsed.values() if other.names == spec.names]
        stages = [stage.only({key for key, value in stage.knobs.items()
                              if any(other.stages[index].knobs.get(key) != value for other in alike)})
                  for index, stage in enumerate(spec.stages)]
        short[text] = str(Spec(tuple(stages)))
    return short
