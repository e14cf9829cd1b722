"""What a run is on disk: the manifest, the records of its samples, and what is found out about them later."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

SCHEMA = 1
Stop = Literal["eos", "stop", "length", "context", "ended", "unknown"]
Key = tuple[str, str, str, int, int]  # task, example, strategy, sample, repeat


def shared_key(key: Key, names: dict[str, str]) -> Key:
    """The same key with equal names as one object, taken from `names`, so that many keys fit in memory."""
    task, example, strategy = (names.setdefault(name, name) for name in key[:3])
    return (task, example, strategy, key[3], key[4])


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
    def key(self) -> Key:
        """What makes the sample unique in a run."""
        return (self.task, self.example, self.strategy, self.sample, self.repeat)


class Sample(BaseModel):
    """What of a record says which sample it is, and whether it succeeded; the rest of the line is not kept."""

    task: str
    example: str
    strategy: str
    sample: int
    repeat: int
    status: Literal["ok", "failed"]

    @property
    def key(self) -> Key:
        """The key of the record."""
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
    def key(self) -> Key:
        """The key of the record that it is about."""
        return (self.task, self.example, self.strategy, self.sample, self.repeat)


class MauveScores(Stored):
    """MAUVE of the answers of a strategy and the references of a task, one score for each start of its k-means."""

    task: str
    strategy: str
    texts: int
    references: int
    scores: list[float]


class TextMetrics(Stored):
    """What was found out about the texts of a run once it was over; `own`: the scorer was the model itself."""

    scorer: str
    own: bool
    tasks: list[str]
    scores: list[TextScore]
    likeness: list[MauveScores]


class ForwardTimes(Stored):
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
    target: ForwardTimes
    draft: ForwardTimes | None
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
    """A strategy of a run; `unsupported` is the reason it was not run, `files` the hashes of files that knobs name."""

    spec: str
    name: str
    family: str
    guarantee: str
    paper: str
    knobs: dict[str, Any]
    unsupported: str | None = None
    files: dict[str, str] = Field(default_factory=dict)

    @field_validator("guarantee", mode="before")
    @classmethod
    def _present_name(cls, guarantee: str) -> str:
        """`exact-law` is what older runs call `distribution-preserving`."""
        return "distribution-preserving" if guarantee == "exact-law" else guarantee


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
