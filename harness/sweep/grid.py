"""The settings of a strategy that a sweep tries: values of its knobs, alone and combined, within a budget."""

import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import product, zip_longest

from harness.errors import UserError, suggestion
from harness.plugins.registry import STRATEGIES
from harness.plugins.spec import Spec
from harness.plugins.strategy import Strategy

TRIES = 50  # draws per setting of the budget, because some combinations are invalid and some are drawn twice

Grid = Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Settings:
    """The settings of a strategy to try, the default (the strategy as given) first.

    `knobs` has the values of each knob as text, the default's first. `possible` counts all combinations, `alone` the
    settings that change one knob only, `refused` the combinations that the strategy does not allow.
    """

    default: Strategy
    knobs: dict[str, tuple[str, ...]]
    tried: tuple[Strategy, ...]
    possible: int
    alone: int
    refused: int

    @property
    def whole(self) -> bool:
        """Return whether every combination that the strategy allows is tried."""
        return len(self.tried) + self.refused >= self.possible

    def groups_differing_in(self, knob: str) -> list[list[str]]:
        """Return groups of two or more specs that differ in this knob only."""
        groups: dict[tuple[tuple[str, str], ...], list[str]] = {}
        for strategy in self.tried:
            rest = tuple((key, value) for key, value in knob_values(strategy).items() if key != knob)
            groups.setdefault(rest, []).append(strategy.spec())
        return [group for group in groups.values() if len(group) > 1]

    def varying(self, knob: str) -> list[Strategy]:
        """Return the default and the settings that differ from it in this knob only."""
        default = knob_values(self.default)
        return [strategy for strategy in self.tried
                if all(value == default[key] for key, value in knob_values(strategy).items() if key != knob)]

    def pairs_in_context(self, knob: str) -> list[tuple[Strategy, Strategy]]:
        """Return pairs that differ in this knob only, each with one other knob changed to a value that was tried."""
        if len(self.knobs[knob]) < 2:
            return []
        others = [strategy for other in self.knobs if other != knob for strategy in self.varying(other)[1:]]
        pairs = []
        for strategy in others:
            with suppress(UserError):
                pairs.append((strategy, with_knobs(strategy, {knob: self.knobs[knob][-1]})))
        return pairs


def settings(spec: str, grid: Grid, budget: int, seed: int) -> Settings:
    """Return at most `budget` settings of `spec`: the default, each value alone, then combinations drawn by the seed.

    `grid` maps knobs to values; if it is empty, the values that the strategy declares for sweeps are used. All
    combinations are tried if the budget allows it. A small budget is divided among the knobs in turn. Raises
    `UserError` for a value that the strategy does not allow.
    """
    default = STRATEGIES.build(spec)
    defaults, declared = knob_values(default), type(default).knobs()
    values_of = {key: values for key, values in grid.items() if key in declared} if grid else \
        {key: tuple(map(str, about.sweep)) for key, about in declared.items() if about.sweep}
    knobs = {}
    for key, values in values_of.items():
        texts = [knob_values(with_knobs(default, {key: value}))[key] for value in values]
        knobs[key] = tuple(dict.fromkeys([defaults[key], *texts]))
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


def knob_values(strategy: Strategy) -> Mapping[str, str]:
    """Return the strategy's knobs as text, without those of a wrapped strategy."""
    return Spec.parse(strategy.spec()).knobs


def changes(knobs: Mapping[str, str], default: Mapping[str, str]) -> str:
    """Return the knobs in which a setting differs from the default, as text; empty if none."""
    return ", ".join(f"{key}={value}" for key, value in knobs.items() if default[key] != value)


def with_knobs(strategy: Strategy, changes: Mapping[str, str]) -> Strategy:
    """Return the strategy with changed knobs; raises `UserError` if it refuses them."""
    return STRATEGIES.build(Spec.parse(strategy.spec()).changed(changes))


def read(texts: Sequence[str], specs: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Parse `k=v1,v2` to the values of each knob; raises `UserError` if no strategy has the knob."""
    known = {name: key for spec in specs for key, about in type(STRATEGIES.build(spec)).knobs().items()
             for name in (about.also, key) if name}
    grid: dict[str, tuple[str, ...]] = {}
    for text in texts:
        key, _, rest = text.partition("=")
        key = key.strip()
        values = tuple(value.strip() for value in rest.split(",") if value.strip())
        if not values:
            raise UserError(f"Write --grid as KNOB=VALUE,VALUE, such as p=0.8,0.9, not '{text}'.")
        if key not in known:
            raise UserError(f"No strategy of this sweep has a knob '{key}'.{suggestion(key, {*known.values()})}")
        grid[known[key]] = values
    return grid


def _add(tried: dict[str, Strategy], default: Strategy, changes: Mapping[str, str]) -> bool:
    """Add a setting; returns False if the strategy does not allow the combination."""
    try:
        strategy = with_knobs(default, changes)
    except UserError:
        return False
    tried.setdefault(strategy.spec(), strategy)
    return True
