"""The contract of a study: an experiment on models beyond a run of strategies over tasks, as a table and a plot."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from harness.plugins.plugin import Plugin, knob

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from harness.store.config import RunConfig

__all__ = ["Setting", "Study", "knob"]


class Setting(NamedTuple):
    """What a study works with: `config` names model, draft, tasks, limit, seed and data; runs may be kept in `folder`.

    `say` tells the user what is being measured.
    """

    config: "RunConfig"
    folder: Path
    say: Callable[[str], None]


@dataclass(frozen=True)
class Study(Plugin):
    """A study; its file has one class, and its knobs are declared like those of strategies.

    `heeds` names the settings among draft, tasks and limit that it uses; the others are refused.
    """

    paper: ClassVar[str]
    heeds: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def table(self, setting: Setting) -> "pd.DataFrame":
        """Return a row for each setting or model; raises `UserError` for a model that cannot be studied."""

    @abstractmethod
    def plot(self, table: "pd.DataFrame", axes: "Axes") -> None:
        """Draw the results."""
