"""A run with a precision: a strategy leaves a task when the interval of its headline score is narrow enough."""

from collections import defaultdict
from collections.abc import Mapping
from statistics import fmean

from pydantic import Field

from harness.errors import UserError
from harness.run.cells import Cell
from harness.run.plan import Plan
from harness.stats.confidence_sequence import anytime_interval
from harness.store.folder import Store
from harness.store.schema import Manifest, Record, Sample

REACHED = "Precision: "  # begins the note on a run with a precision


class ScoredSample(Sample):
    """The fields of a record from which it is decided who goes on."""

    scores: dict[str, float] = Field(default_factory=dict)


class Leavers:
    """Decides block by block which strategies go on, from the scores of the samples so far in the order they ran.

    The score of an example is the mean over its samples. A block that a strategy has begun it also ends, and the
    baseline goes on as long as any strategy of the task does, so that each answer has its pair. Repeats have the
    examples of the first one.
    """

    def __init__(self, plan: Plan, store: Store) -> None:
        self.precision, self.baseline = plan.config.precision, plan.manifest.baseline
        self.strategies = [strategy.spec() for strategy in plan.strategies]
        self.headlines = {entry.spec: entry.headline for entry in plan.manifest.tasks}
        self.begun = set[tuple[str, str, str]]()
        self.scores = defaultdict[tuple[str, str], dict[str, list[float]]](dict)
        self.spared = defaultdict[str, dict[str, int]](dict)
        self.samples, self.block, self.staying = 0, -1, set[str]()
        if self.precision:
            for sample in store.parts_of_records(ScoredSample):
                self.add(sample)

    def add(self, sample: ScoredSample | Record) -> None:
        """Take note of a sample that is on disk."""
        if sample.repeat:
            return
        self.begun.add((sample.task, sample.strategy, sample.example))
        if (score := sample.scores.get(self.headlines[sample.task])) is not None:
            self.scores[sample.task, sample.strategy].setdefault(sample.example, []).append(score)

    def stays(self, cell: Cell) -> bool:
        """Return whether the strategy of a cell decodes its block; the cells of a block come one after the other."""
        if self.precision and cell.block != self.block:
            self.block, self.staying = cell.block, self._staying(cell, self.precision)
        return not self.precision or cell.strategy.spec() in self.staying

    def spare(self, cell: Cell, samples: int) -> None:
        """Count samples of a cell that are left out."""
        of_task, strategy = self.spared[cell.task.spec()], cell.strategy.spec()
        of_task[strategy] = of_task.get(strategy, 0) + samples
        self.samples += samples

    def _staying(self, cell: Cell, precision: float) -> set[str]:
        """Return the strategies that decode the block of a cell."""
        task, names = cell.task.spec(), [example.id for example in cell.examples]
        begun = {spec for spec in self.strategies if any((task, spec, name) in self.begun for name in names)}
        if cell.repeat:
            return begun
        wide = {spec for spec in self.strategies if not self._narrow(task, spec, precision)}
        return begun | wide | {self.baseline} if begun | wide else set()

    def _narrow(self, task: str, strategy: str, precision: float) -> bool:
        interval = anytime_interval([fmean(scores) for scores in self.scores[task, strategy].values()], precision)
        return (interval.high - interval.low) / 2 <= precision


def refuse_unscored_tasks(plan: Plan) -> None:
    """Raise `UserError` if a task of a run with a precision has no score when its samples are decoded."""
    if plan.config.precision and (without := next((task for task in plan.manifest.tasks if task.unscored), None)):
        raise UserError(f"--precision needs a score, and {without.spec} has none ({without.unscored}): leave one of "
                        "them out.")


def begun_with(manifest: Manifest, precision: float | None) -> Manifest:
    """Return the manifest of a run that goes on: a precision is that of the present command, or still the last one's.
    """
    return manifest.model_copy(update={"precision": precision or manifest.precision, "spared": {}})


def with_spared(manifest: Manifest, spared: Mapping[str, dict[str, int]], left: int, samples: int,
                precision: float | None) -> Manifest:
    """Return the manifest of a run that ends, with what its precision spared, and a note on it.

    Without a precision and with nothing `left`, what an earlier command spared has been decoded.
    """
    known = precision or (manifest.precision if left else None)
    manifest = manifest.model_copy(update={"precision": known, "spared": dict(spared)})
    notes, total = list[str](), manifest.spared_samples
    if known:
        found = f"{total} of {samples} samples were left out, because their strategies' scores were known to within " \
            f"±{known:g} without them" if total else "no sample was left out"
        notes.append(f"{REACHED}{found}; intervals and p-values of quality hold at any stop, so they are wider than "
                     "those of a run of fixed size.")
    warnings = [text for text in manifest.warnings if not text.startswith(REACHED)]
    return manifest.model_copy(update={"warnings": [*warnings, *notes]})
