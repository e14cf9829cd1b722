"""Rules of `decodebench check` from a TOML file, each for the tasks and strategies that match its patterns."""

import tomllib
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import UserError, suggestion
from harness.plugins.spec import Spec

Count = Literal["tokens", "forwards", "positions", "drafted", "accepted", "draft_forwards", "draft_positions"]
Share = Annotated[float, Field(ge=0, le=1)]
Level = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]
TAU = 0.02  # share by which tokens per step may fall if a rule says nothing else


class Rule(BaseModel):
    """Base of all rules: shell patterns for the name or spec of its strategies and tasks.

    For each kind, the last rule that matches a cell is applied; if it is `off`, none is.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    strategies: list[str] = ["*"]
    tasks: list[str] = ["*"]
    off: bool = False

    def fits(self, task: str, strategy: str) -> bool:
        """Return whether the patterns match this cell."""
        return _named(task, self.tasks) and _named(strategy, self.strategies)


class Complete(Rule):
    """The run has all cells of the baseline with all samples, of which at most `failed` failed."""

    kind: Literal["complete"] = "complete"
    failed: Annotated[int, Field(ge=0)] = 0


class Counts(Rule):
    """These counts of each sample equal the baseline's."""

    kind: Literal["counts"] = "counts"
    counts: list[Count] = list(get_args(Count))


class Tokens(Rule):
    """The token ids of each sample equal the baseline's."""

    kind: Literal["tokens"] = "tokens"


class Lossless(Rule):
    """A lossless strategy gives the tokens of the run's own baseline strategy.

    Answers may differ after a tie: their first different tokens have logits at most `tie` apart.
    """

    kind: Literal["lossless"] = "lossless"
    tie: Annotated[float, Field(ge=0)] = 0.0


class Scores(Rule):
    """Equal answers have equal scores: detects a change of the scorer without a statistical test."""

    kind: Literal["scores"] = "scores"


class Quality(Rule):
    """The mean score does not fall below the baseline's by more than `tolerance`, or significantly at `level`.

    If both are given, a fall breaks the rule only if it is larger than `tolerance` and significant.
    """

    kind: Literal["quality"] = "quality"
    tolerance: Share | None = None
    level: Level | None = None


class Speed(Rule):
    """The speed-up over the run's own baseline strategy is not significantly (`level`) below a minimum.

    `at_least` is a minimum; `worse_by` sets it to (1 - `worse_by`) times the baseline file's speed-up. Both may be
    given.
    """

    kind: Literal["speed"] = "speed"
    worse_by: Annotated[float, Field(ge=0, lt=1)] | None = None
    at_least: Positive | None = None
    level: Level = 0.05
    other_hardware: bool = False


class Tau(Rule):
    """Tokens per decode step are within bounds, and do not fall below the baseline's by more than a share `tolerance`.

    `at_least` and `at_most` are bounds that need no baseline: too many tokens per step may be answers that loop, or
    drafts that are accepted too easily. Without any setting the tolerance is `TAU`.
    """

    kind: Literal["tau"] = "tau"
    tolerance: Share | None = None
    at_least: Positive | None = None
    at_most: Positive | None = None

    @property
    def bounded(self) -> bool:
        """Whether it has a bound."""
        return self.at_least is not None or self.at_most is not None

    @property
    def allowed(self) -> float | None:
        """The share that the tokens per step may fall by, None if they are not compared with the baseline's."""
        return self.tolerance if self.tolerance is not None or self.bounded else TAU


class Acceptance(Rule):
    """The share of drafted tokens that are accepted does not fall below the baseline's by more than `tolerance`."""

    kind: Literal["acceptance"] = "acceptance"
    tolerance: Share = 0.02


class Truncated(Rule):
    """The share of truncated answers does not rise above the baseline's by more than `tolerance`."""

    kind: Literal["truncated"] = "truncated"
    tolerance: Share = 0.05


AnyRule = Complete | Counts | Tokens | Lossless | Scores | Quality | Speed | Tau | Acceptance | Truncated
KINDS: dict[str, type[AnyRule]] = {
    "complete": Complete, "counts": Counts, "tokens": Tokens, "lossless": Lossless, "scores": Scores,
    "quality": Quality, "speed": Speed, "tau": Tau, "acceptance": Acceptance, "truncated": Truncated}
DEFAULT: tuple[AnyRule, ...] = (Complete(), Counts(), Tokens(), Lossless(), Scores(), Quality(level=0.05))


def read(path: Path | None) -> tuple[AnyRule, ...]:
    """Return the default rules followed by those of a file; raises `UserError` with the number of an invalid rule."""
    if path is None:
        return DEFAULT
    try:
        loaded = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"There is no rules file {path}.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} cannot be read as TOML: {error}.") from None
    listed = loaded.pop("rule", [])
    if loaded or not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
        raise UserError(f"{path} must contain only [[rule]] tables{_odd(loaded)}.")
    return DEFAULT + tuple(_rule(path, number, item) for number, item in enumerate(listed, start=1))


def applying(rules: Sequence[AnyRule], kind: str, task: str, strategy: str) -> AnyRule | None:
    """Return the rule of a kind that applies to a cell, or None."""
    fitting = [rule for rule in rules if rule.kind == kind and rule.fits(task, strategy)]
    return fitting[-1] if fitting and not fitting[-1].off else None


def _odd(loaded: dict[str, Any]) -> str:
    return f", not '{next(iter(loaded))}'" if loaded else ""


def _rule(path: Path, number: int, item: dict[str, Any]) -> AnyRule:
    where, kind = f"{path}, rule {number}", item.get("kind")
    if not isinstance(kind, str):
        raise UserError(f"{where} needs a kind.{suggestion('', KINDS)}")
    if kind not in KINDS:
        raise UserError(f"{where}: there is no kind '{kind}'.{suggestion(kind, KINDS)}")
    known = KINDS[kind].model_fields
    if unknown := [key for key in item if key not in known]:
        raise UserError(f"{where} ({kind}) has no setting '{unknown[0]}'.{suggestion(unknown[0], known)}")
    try:
        rule: AnyRule = KINDS[kind].model_validate(item)
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{where} ({kind}): '{'.'.join(map(str, first['loc']))}': {first['msg']}.") from None
    if not rule.off and isinstance(rule, Quality) and rule.tolerance is None and rule.level is None:
        raise UserError(f"{where} (quality) needs a tolerance, a level, or both.")
    if not rule.off and isinstance(rule, Speed) and rule.worse_by is None and rule.at_least is None:
        raise UserError(f"{where} (speed) needs worse_by, at_least, or both.")
    return rule


def _named(spec: str, patterns: Sequence[str]) -> bool:
    """Return whether a pattern matches the whole spec, or its names without knobs."""
    return any(fnmatchcase(name, pattern) for pattern in patterns for name in (spec, Spec.parse(spec).names))
