"""Specs: how a strategy or a task is written, `name:k=v,k=v`, and a strategy over another one, `a:k=v+b:k=v`."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from harness.errors import UserError

SEPARATOR = re.compile(r"\+(?=[a-z]\w*(?::|\+|$))")  # a `+` inside a number or a path separates nothing


@dataclass(frozen=True)
class Stage:
    """One plugin of a spec: its name, and its knobs as text."""

    name: str
    knobs: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `top_p:p=0.9,temperature=0.7`; raises `UserError` when it is malformed."""
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
        """The text that `parse` reads."""
        written = ",".join(f"{key}={value}" for key, value in self.knobs.items())
        return f"{self.name}:{written}" if written else self.name

    def only(self, keys: Collection[str]) -> "Stage":
        """The stage with these knobs alone."""
        return replace(self, knobs={key: value for key, value in self.knobs.items() if key in keys})


@dataclass(frozen=True)
class Spec:
    """The stages of a spec in their order; each works on what the one before it does, and the last one names it."""

    stages: tuple[Stage, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a spec; raises `UserError` when it is malformed."""
        return cls(tuple(map(Stage.parse, SEPARATOR.split(text))))

    @classmethod
    def of(cls, name: str, **knobs: str) -> Self:
        """A spec of one stage."""
        return cls((Stage(name, knobs),))

    def __str__(self) -> str:
        """The text that `parse` reads."""
        return "+".join(map(str, self.stages))

    @property
    def readable(self) -> bool:
        """Whether the text reads back as the same spec: no name or value holds a separator."""
        try:
            return Spec.parse(str(self)) == self
        except UserError:
            return False

    @property
    def name(self) -> str:
        """The name of the last stage."""
        return self.stages[-1].name

    @property
    def names(self) -> str:
        """The names of all stages, `a+b`."""
        return "+".join(stage.name for stage in self.stages)

    @property
    def knobs(self) -> Mapping[str, str]:
        """The knobs of the last stage, as text."""
        return self.stages[-1].knobs

    @property
    def below(self) -> "Spec | None":
        """What the last stage works on; None when it is the only one."""
        return Spec(self.stages[:-1]) if len(self.stages) > 1 else None

    def changed(self, knobs: Mapping[str, str]) -> "Spec":
        """The spec with other values of some knobs of its last stage."""
        return Spec((*self.stages[:-1], Stage(self.name, {**self.knobs, **knobs})))
