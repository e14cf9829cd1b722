"""Which settings of a strategy a sweep tries: its knobs' values, alone and together, within a budget."""

import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product, zip_longest

from harness.errors import UserError, suggestion
from harness.plugins.registry import STRATEGIES
from harness.plugins.spec import Spec
from harness.plugins.strategy import Strategy

TRIES = 50  # draws for each setting that is still wanted: some combinations are refused, some come twice

Grid = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Settings:
    """A strategy's settings to try, its default (as it was asked for) first.

    `knobs` holds the values that were wanted, as text and the default's first, `whole` says whether all combinations
    are there, `alone` how many of the settings change one knob only. `refused` are combinations that the strategy does
    not allow.
    """

    default: Strategy
    knobs: dict[str, tuple[str, ...]]
    tried: tuple[Strategy, ...]
    possible: int
    alone: int
    refused: int

    @property
    def whole(self) -> bool:
        """Whether every combination that the strategy allows is tried."""
        return len(self.tried) + self.refused >= self.possible

    def alike(self, knob: str) -> list[list[str]]:
        """The specs of settings that differ in this knob alone, in groups of two or more."""
        groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
        for strategy in self.tried:
            rest = tuple((key, value) for key, value in own(strategy).items() if key != knob)
            groups.setdefault(rest, []).append(strategy.spec())
        return [group for group in groups.values() if len(group) > 1]

    def line(self, knob: str) -> list[Strategy]:
        """The default, and the settings that differ from it in this knob alone."""
        mine = own(self.default)
        return [strategy for strategy in self.tried
                if all(value == mine[key] for key, value in own(strategy).items() if key != knob)]

    def contexts(self, knob: str) -> list[tuple[Strategy, Strategy]]:
        """Pairs that differ in this knob alone, each with one value of one other knob changed that was tried."""
        if len(self.knobs[knob]) < 2:
            return []
        others = [strategy for other in self.knobs if other != knob for strategy in self.line(other)[1:]]
        found = []
        for strategy in others:
            with suppress(UserError):
                found.append((strategy, turned(strategy, {knob: self.knobs[knob][-1]})))
        return found


def settings(spec: str, grid: Grid, budget: int, seed: int) -> Settings:
    """At most `budget` settings of the strategy `spec`: the default, each value alone, then seeded draws of the rest.

    `grid` names knobs with their values; without one every knob takes the values that its strategy declares for a
    sweep. All combinations are tried when they fit. Knobs take turns, so a budget that is too small for all values
    leaves each knob some. Raises `UserError` for a value that the strategy refuses.
    """
    default = STRATEGIES.build(spec)
    mine, declared = own(default), type(default).knobs()
    wanted = {key: values for key, values in grid.items() if key in declared} if grid else \
        {key: tuple(map(str, about.sweep)) for key, about in declared.items() if about.sweep}
    knobs = {}
    for key, values in wanted.items():
        texts = [own(turned(default, {key: value}))[key] for value in values]
        knobs[key] = tuple(dict.fromkeys([mine[key], *texts]))
    possible, refused = 1, 0
    for values in knobs.values():
        possible *= len(values)
    turns = zip_longest(*([{key: value} for value in values[1:]] for key, values in knobs.items()))
    tried = {default.spec(): default}
    for change in [change for turn in turns for change in turn if change][:budget - 1]:
        _add(tried, default, change)
    alone = len(tried) - 1
    if possible <= budget:
        for values in product(*knobs.values()):
            refused += not _add(tried, default, dict(zip(knobs, values, strict=True)))
    rng = random.Random(f"{seed} {default.spec()}")
    for _ in range(TRIES * budget if possible > budget else 0):
        if len(tried) >= budget:
            break
        _add(tried, default, {key: rng.choice(values) for key, values in knobs.items()})
    return Settings(default, knobs, tuple(tried.values()), possible, alone, refused)


def own(strategy: Strategy) -> Mapping[str, str]:
    """The strategy's knobs as text, without those of one that it works on."""
    return Spec.parse(strategy.spec()).knobs


def changes(knobs: Mapping[str, str], default: Mapping[str, str]) -> str:
    """What a setting changes of the default, in words; empty when nothing."""
    return ", ".join(f"{key}={value}" for key, value in knobs.items() if default[key] != value)


def turned(strategy: Strategy, changes: Mapping[str, str]) -> Strategy:
    """The strategy with other values of some knobs; raises `UserError` when it refuses them."""
    return STRATEGIES.build(Spec.parse(strategy.spec()).changed(changes))


def read(texts: Sequence[str], specs: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """`k=v1,v2` → the values of each knob; raises `UserError` when no strategy has the knob."""
    known = {key for spec in specs for key in type(STRATEGIES.build(spec)).knobs()}
    grid: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, _, rest = text.partition("=")
        values = tuple(value.strip() for value in rest.split(",") if value.strip())
        if not values:
            raise UserError(f"Write --grid as KNOB=VALUE,VALUE, such as p=0.8,0.9, not '{text}'.")
        if key.strip() not in known:
            raise UserError(f"No strategy of this sweep has a knob '{key.strip()}'.{suggestion(key.strip(), known)}")
        grid[key.strip()] = values
    return grid


def _add(tried: dict[str, Strategy], default: Strategy, changes: Mapping[str, str]) -> bool:
    """Note a setting; False when the strategy does not allow the combination."""
    try:
        strategy = turned(default, changes)
    except UserError:
        return False
    tried.setdefault(strategy.spec(), strategy)
    return True
