"""A run on disk: a manifest written before the first token, and records that are only ever appended."""

from collections.abc import Container, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from harness.errors import UserError
from harness.lines import append, first, mend

SCHEMA = 1
Stop = Literal["eos", "stop", "length", "context", "ended", "unknown"]


class Stored(BaseModel):
    """Base of everything written to disk: unknown fields are errors, and NaN is kept as the text that JSON can hold."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class Steps(Stored):
    """What happened at each step of one turn, as parallel lists with one entry a step.

    `tokens` counts the tokens kept of the step; `seconds` is its wall time. `forwards` and `positions` count the
    target's forward passes and the tokens they read, `draft_*` the draft model's. `drafted` and `accepted` count the
    nodes of candidate trees that the target read and kept. Step 0 reads the prompt. What another tool did not note of
    an imported run is an empty list, or NaN seconds.
    """

    tokens: list[int] = Field(default_factory=list)
    seconds: list[float] = Field(default_factory=list)
    forwards: list[int] = Field(default_factory=list)
    positions: list[int] = Field(default_factory=list)
    drafted: list[int] = Field(default_factory=list)
    accepted: list[int] = Field(default_factory=list)
    draft_forwards: list[int] = Field(default_factory=list)
    draft_positions: list[int] = Field(default_factory=list)


class Turn(Stored):
    """One answer: `text` is what is scored (cut at the stop string), `raw` what was generated before the cut.

    Of an imported answer `tokens` and `steps` may be unknown (empty), as may be its `prompt` and why it stopped.
    `prompt_cut` counts the tokens that the prompt lost at its start because the model reads no longer one;
    `prompt_shared` those that were not read but copied, because all prompts of the task begin with them.
    """

    prompt: str
    prompt_tokens: int
    prompt_cut: int = 0
    prompt_shared: int = 0
    text: str
    raw: str
    tokens: list[int]
    stop: Stop
    steps: Steps


class Record(Stored):
    """One finished sample, or the error that ended it (`status` failed: no turns that count, no scores).

    `block` and `order` say where in the interleaved plan it ran; `started` is seconds since this process began to run.
    `seconds` is the wall time of its steps; samples decoded together share the wall time of all equally.
    `batch` is how many texts a forward of the model read on average while this one was decoded, `padding` the share
    of the places in those forwards that held no token. `peak_bytes` is the most memory held meanwhile: torch's on a
    GPU, else the process's, with what it had taken before; None where that is not known. `temperature` is the one
    that the task set and the strategy obeyed. `counted` is what the own counters of a server counted meanwhile, whoever
    asked it, shared in the same way.
    """

    task: str
    example: str
    strategy: str
    sample: int
    repeat: int
    block: int
    order: int
    started: float
    seconds: float = 0.0
    batch: float = 1.0
    padding: float = 0.0
    peak_bytes: int | None = None
    temperature: float | None = None
    category: str = ""
    status: Literal["ok", "failed"] = "ok"
    error: str | None = None
    turns: list[Turn] = Field(default_factory=list)
    scores: dict[str, float] = Field(default_factory=dict)
    counted: dict[str, float] = Field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """What makes the sample unique in a run."""
        return (self.task, self.example, self.strategy, self.sample, self.repeat)


class Divergence(Stored):
    """An answer that should equal the baseline's: the `turn` and token (`at`) where they part.

    `margin` is the distance of the two tokens' logits there, None when one of the answers had ended.
    """

    task: str
    example: str
    strategy: str
    sample: int
    repeat: int
    turn: int
    at: int
    margin: float | None


class TextScore(Stored):
    """What models make of one answer, or of the reference of an example (`strategy` is empty and `text` the reference).

    `tokens` and `logp` (nats) are those of the answer under the evaluated model, `greedy` the share of its tokens that
    were the likeliest, `entropy` (nats) the mean uncertainty before a token, `uneven` the variance of -log p, `rep` how
    often the model would have said again what it had said (rep/l). `scorer_*` are of its text under the scoring model,
    `cosine` the likeness of its mean hidden states in prompt and answer. `answer` stands for what the task
    reads off it (equal answers have equal ones), None when that is nothing.
    """

    task: str
    example: str
    strategy: str = ""
    sample: int = 0
    repeat: int = 0
    text: str = ""
    answer: str | None = None
    tokens: int
    logp: float
    greedy: float | None
    entropy: float | None
    uneven: float | None
    rep: float | None
    scorer_tokens: int
    scorer_logp: float
    cosine: float | None

    @property
    def key(self) -> tuple[str, str, str, int, int]:
        """The key of the record that it is about."""
        return (self.task, self.example, self.strategy, self.sample, self.repeat)


class Likeness(Stored):
    """MAUVE of the answers of a strategy and the references of a task, one score for each start of its k-means."""

    task: str
    strategy: str
    texts: int
    references: int
    scores: list[float]


class Texts(Stored):
    """What was found out about the texts of a run once it was over; `own`: the scorer was the model itself."""

    scorer: str
    own: bool
    tasks: list[str]
    scores: list[TextScore]
    likeness: list[Likeness]


class Curve(Stored):
    """What forwards of one model take: median `seconds` of one in which each text reads so many new `tokens`.

    `weight_bytes` are the weights that each forward reads, `token_bytes` the keys and values of one token.
    """

    tokens: list[int]
    seconds: list[float]
    weight_bytes: int
    token_bytes: int


class Limits(Stored):
    """What the machine of a run can do: forwards over `texts` texts of `context` tokens, and copies of the weights.

    `drafting` are the strategies whose drafts come from the draft model. `bytes_per_second` counts what a copy reads
    and what it writes.
    """

    context: int
    texts: int
    hardware: dict[str, Any]
    target: Curve
    draft: Curve | None
    drafting: list[str]
    bytes_per_second: float


class TaskEntry(Stored):
    """A task of a run: its identity, its data, and how its quality is to be read."""

    spec: str
    version: int
    headline: str
    unscored: str | None
    data: str
    data_hash: str
    examples: int
    max_new_tokens: int
    sub_tasks: dict[str, str] | None = None


class StrategyEntry(Stored):
    """A strategy of a run; `unsupported` is the reason it was not run."""

    spec: str
    name: str
    family: str
    guarantee: str
    paper: str
    knobs: dict[str, Any]
    unsupported: str | None = None


class ModelEntry(Stored):
    """A model of a run: where it came from and what it is."""

    name: str
    architecture: str
    parameters: int
    dtype: str
    fingerprint: str


class Manifest(Stored):
    """Everything needed to know what a run is; `identity` must match for the same folder to be resumed."""

    schema_version: int = SCHEMA
    created: str
    command: str
    baseline: str
    config: dict[str, Any]
    strategies: list[StrategyEntry]
    tasks: list[TaskEntry]
    model: ModelEntry
    draft: ModelEntry | None
    environment: dict[str, Any]
    warnings: list[str] = Field(default_factory=list)

    def identity(self) -> dict[str, Any]:
        """The part that decides whether two runs are the same one; the hash of the data counts, not its place."""
        kept = {"schema_version", "baseline", "config", "strategies", "tasks", "model", "draft"}
        found = self.model_dump(mode="json", include=kept)
        for task in found["tasks"]:
            del task["data"]
        return found


class Store:
    """The folder of one run: `manifest.json`, `records/0000.jsonl`, and what is derived from them."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder, self.manifest = folder, manifest

    @property
    def path(self) -> Path:
        """The file that this process appends to."""
        return self.folder / "records" / "0000.jsonl"

    @classmethod
    def begin(cls, folder: Path, manifest: Manifest) -> "Store":
        """Start a run in `folder`, or resume the same one; raises `UserError` when another run lives there."""
        if (folder / "manifest.json").exists():
            store = cls.open(folder)
            if difference := _difference(store.manifest.identity(), manifest.identity()):
                raise UserError(f"{folder} holds another run ({difference} differs); choose another folder with -o.")
            mend(store.path)
            return store
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} exists and is not a run of decodebench; choose another folder with -o.")
        try:
            (folder / "records").mkdir(parents=True, exist_ok=True)
            _write(folder / "manifest.json", manifest.model_dump_json(indent=2) + "\n")
        except OSError as error:
            raise UserError(f"{folder} cannot be written ({error.strerror}); choose another folder with -o.") from None
        return cls(folder, manifest)

    @classmethod
    def open(cls, folder: Path) -> "Store":
        """Read an existing run; raises `UserError` when `folder` holds none."""
        path = folder / "manifest.json"
        if not path.is_file():
            raise UserError(f"{folder} holds no run: {path.name} is missing; give a folder that `run -o` wrote.")
        try:
            return cls(folder, Manifest.model_validate_json(path.read_text()))
        except ValidationError as error:
            raise UserError(f"{path} was not written by this version of decodebench: {first(error)}.") from None

    def append(self, record: Record) -> None:
        """Write one record as one line and hand it to the operating system before returning."""
        append(self.path, [record])

    def records(self, wanted: Container[int] | None = None) -> Iterator[Record]:
        """Every finished record; a torn last line is skipped, any other bad line raises `UserError`.

        With `wanted` only those whose number, counted from 0, is in it; the others are not looked at.
        """
        number = -1
        for path in sorted((self.folder / "records").glob("*.jsonl")):
            with path.open("rb") as file:
                for place, line in enumerate(file, start=1):
                    if not line.endswith(b"\n"):
                        break
                    number += 1
                    if wanted is not None and number not in wanted:
                        continue
                    try:
                        yield Record.model_validate_json(line)
                    except ValidationError as error:
                        raise UserError(f"{path}, line {place}: not a record ({first(error)}).") from None

    def explain(self, divergences: Iterable[Divergence]) -> None:
        """Write down, in place of what was known before, where answers part from the baseline's."""
        _write(self.folder / "divergences.jsonl", "".join(d.model_dump_json() + "\n" for d in divergences))

    @property
    def explained(self) -> bool:
        """Whether the divergences were written down."""
        return (self.folder / "divergences.jsonl").exists()

    def divergences(self) -> list[Divergence]:
        """Where answers that should equal the baseline's part from them; empty when that was never looked at."""
        path = self.folder / "divergences.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        try:
            return [Divergence.model_validate_json(line) for line in lines]
        except ValidationError as error:
            raise UserError(f"{path}: not a list of divergences ({first(error)}); run again to mend it.") from None

    def describe(self, texts: Texts) -> None:
        """Write down, in place of what was known before, what models make of the texts."""
        _write(self.folder / "texts.json", texts.model_dump_json() + "\n")

    def texts(self) -> Texts | None:
        """What models make of the texts, None when that was never asked for."""
        path = self.folder / "texts.json"
        try:
            return Texts.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None
        except ValidationError as error:
            raise UserError(f"{path}: not metrics of texts ({first(error)}); remove it and run again.") from None

    def bound(self, limits: Limits) -> None:
        """Write down, in place of what was known before, what the machine of the run can do."""
        _write(self.folder / "limits.json", limits.model_dump_json(indent=1) + "\n")

    def limits(self) -> Limits | None:
        """What the machine of the run can do, None when that was never measured."""
        path = self.folder / "limits.json"
        try:
            return Limits.model_validate_json(path.read_text(encoding="utf-8")) if path.exists() else None
        except ValidationError as error:
            raise UserError(f"{path}: not limits ({first(error)}); remove it and measure again.") from None


def _write(path: Path, text: str) -> None:
    """Replace `path` in one move, so that no reader sees half of it."""
    temporary = path.with_suffix(".part")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _difference(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The first place where two identities differ, in words, or an empty string; None is as good as missing."""
    for key in old:
        if isinstance(old[key], dict) and isinstance(new[key], dict):
            if inner := [k for k in old[key] | new[key] if old[key].get(k) != new[key].get(k)]:
                return f"{key}.{inner[0]}"
        elif old[key] != new[key]:
            return str(key)
    return ""
