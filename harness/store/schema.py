"""The format of a run on disk: the manifest, the records of samples, and results derived from them later."""

from typing import Any, Literal

from pydantic import BaseModel, Field, field_validator

from harness.store.computed import Computed, Sizes
from harness.store.stored import Stored

SCHEMA = 1
UNFINISHED = "Not complete: "  # begins a warning about samples that are left
Stop = Literal["eos", "stop", "length", "context", "ended", "unknown"]
CODE_NOT_RUN = "code not run: allow it with --allow-code-execution"  # `unscored` of a task whose programs may run later
Key = tuple[str, str, str, int, int]  # task, example, strategy, sample, repeat


def shared_key(key: Key, names: dict[str, str]) -> Key:
    """Return the key with its names interned in `names`, so that many keys fit in memory."""
    task, example, strategy = (names.setdefault(name, name) for name in key[:3])
    return (task, example, strategy, key[3], key[4])


class Steps(Stored):
    """The steps of one turn, as parallel lists with one entry per step.

    `tokens` counts the committed tokens of the step; `seconds` is its wall time. `forwards` and `positions` count the
    target's forward passes and the tokens in them, `draft_*` those of the draft model. `drafted` and `accepted` count
    the tree nodes that the target verified and accepted; `whole` is 1 where the accepted path ended at a leaf of the
    draft, so that the token after it is a bonus. Step 0 is the prefill. Values that an imported or older run does not
    have are empty lists, or NaN seconds.
    """

    tokens: list[int] = Field(default_factory=list)
    seconds: list[float] = Field(default_factory=list)
    forwards: list[int] = Field(default_factory=list)
    positions: list[int] = Field(default_factory=list)
    drafted: list[int] = Field(default_factory=list)
    accepted: list[int] = Field(default_factory=list)
    draft_forwards: list[int] = Field(default_factory=list)
    draft_positions: list[int] = Field(default_factory=list)
    whole: list[int] = Field(default_factory=list)


class StepTree(Stored):
    """The draft of one step, or the hypotheses of a search: nodes with their parents before them, -1 for the sequence.

    `texts` are the tokens as text, and `path` the nodes that were accepted, from the top down.
    """

    step: int
    tokens: list[int]
    parents: list[int]
    path: list[int]
    texts: list[str] = Field(default_factory=list)


class Turn(Stored):
    """One answer: `text` is scored and ends before the stop string, `raw` is the whole generated text.

    In an imported answer `tokens`, `steps`, `prompt` and the reason of its end may be unknown (empty). `prompt_cut`
    counts the tokens cut from the start of a prompt that exceeded the context; `prompt_shared` the prompt tokens that
    were copied from the common prefix of the task's prompts instead of computed. `ends` is the number of characters of
    `raw` after each token; of a character of several tokens, the last one has all. It is empty if unknown. `ranks` are
    those of sampled tokens in the model's distributions before any warp, 1 for the likeliest; empty if unknown.
    `surprisal` is -log p of each token of a given text, in nats; empty for a text that the strategy chose. `trees` are
    written to a file of their own. Older runs do not tell what was `computed`. `encoded` counts the prompt tokens that
    an encoder read, in the first step; 0 for a model without one. `filled` is, for each token of a canvas, the number
    of the forward from which it came; empty where text was written from left to right.
    """

    prompt: str
    prompt_tokens: int
    prompt_cut: int = 0
    prompt_shared: int = 0
    text: str
    raw: str
    tokens: list[int]
    ends: list[int] = Field(default_factory=list)
    stop: Stop
    steps: Steps
    ranks: list[int] = Field(default_factory=list)
    surprisal: list[float] = Field(default_factory=list)
    computed: Computed | None = None
    encoded: int = 0
    filled: list[int] = Field(default_factory=list)
    trees: list[StepTree] = Field(default_factory=list, exclude=True)


class Record(Stored):
    """One finished sample, or a failed one, which has an error and neither turns nor scores.

    `block` is the number of the block of examples in which all strategies decoded it, `order` the strategy's place in
    that block; `started` is in seconds since the process began the run. `seconds` is the wall time of its steps;
    samples decoded together share their wall time in proportion to it. `batch` is the mean number of sequences per
    forward pass while it was decoded, `padding` the share of padded positions in these forwards. `peak_bytes` is the
    peak memory meanwhile, torch's on a GPU, else the whole process's; None if unknown. `temperature` is set if the
    strategy used the task's temperature. `counted` is the increase of the server's own counters meanwhile, by all its
    clients, shared equally. `reason` tells why the scores are what they are: the answer that was read from
    the text, or the error of its program. `sums` are the statistics of the task's corpus metrics.
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
    reason: str = ""
    sums: dict[str, list[int]] = Field(default_factory=dict)
    counted: dict[str, float] = Field(default_factory=dict)

    @property
    def key(self) -> Key:
        """The fields that identify the sample in a run."""
        return (self.task, self.example, self.strategy, self.sample, self.repeat)


class Sample(BaseModel):
    """The fields of a record that identify its sample, and its status."""

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
    """An answer that should equal the baseline's, and the `turn` and index (`at`) of the first token that differs.

    `margin` is the difference of the two tokens' logits, None if one of the answers has ended there.
    """

    task: str
    example: str
    strategy: str
    sample: int
    repeat: int
    turn: int
    at: int
    margin: float | None


class Expected(Stored):
    """What an answer to an example is compared with, as text for a reader."""

    task: str
    example: str
    text: str


class SampleTrees(Stored):
    """The trees of a sample's turns (`--trace full`)."""

    task: str
    example: str
    strategy: str
    sample: int
    repeat: int
    turns: list[list[StepTree]]

    @property
    def key(self) -> Key:
        """The key of the sample's record."""
        return (self.task, self.example, self.strategy, self.sample, self.repeat)


class TextScore(Stored):
    """The text metrics of one answer, or of an example's reference (`text`), for which `strategy` is empty.

    The evaluated model computes `tokens`, `logp` (nats), `greedy`, the share of tokens that are the likeliest,
    `entropy` (nats), the mean entropy before a token, `uneven`, the variance of -log p, and `rep`, the share of
    positions whose likeliest token is a recent one (rep/l). The scoring model computes `scorer_*` of the text, and
    `cosine`, the cosine similarity of the mean hidden states of prompt and answer. `answer` is a hash of the answer
    that the task extracts, None if it extracts none.
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
        """The key of the scored record."""
        return (self.task, self.example, self.strategy, self.sample, self.repeat)


class MauveScores(Stored):
    """MAUVE of a strategy's answers against a task's references, one score per seed of its k-means."""

    task: str
    strategy: str
    texts: int
    references: int
    scores: list[float]


class TextMetrics(Stored):
    """The text metrics of a finished run; `own` means that the evaluated model was the scorer."""

    scorer: str
    own: bool
    tasks: list[str]
    scores: list[TextScore]
    likeness: list[MauveScores]


class ForwardTimes(Stored):
    """The times of one model's forward passes: median `seconds` for each number of new `tokens` per sequence.

    `weight_bytes` are the weights that each forward loads, `token_bytes` the keys and values of one token.
    """

    tokens: list[int]
    seconds: list[float]
    weight_bytes: int
    token_bytes: int


class HeadTimes(Stored):
    """The times of a head's steps: median seconds of the `first` one of a draft, and of later ones over `tokens` nodes.

    `prompt` are those of the first step of a sequence. `weight_bytes` are the weights that are its own.
    """

    prompt: float
    first: float
    tokens: list[int]
    seconds: list[float]
    weight_bytes: int


class Limits(Stored):
    """The limits of a run's machine: times of forwards over `texts` sequences of `context` tokens, and bandwidth.

    `drafting` are the strategies that use the draft model, and `heads` has the times of those that use a trained head,
    by strategy. `bytes_per_second` counts the bytes that a copy reads and those that it writes.
    """

    context: int
    texts: int
    hardware: dict[str, Any]
    target: ForwardTimes
    draft: ForwardTimes | None
    drafting: list[str]
    heads: dict[str, HeadTimes] = Field(default_factory=dict)
    bytes_per_second: float


class TaskEntry(Stored):
    """A task of a run: its identity, its data, its headline metric, and how its `corpus` metrics are computed."""

    spec: str
    version: int
    headline: str
    unscored: str | None
    data: str
    data_hash: str
    examples: int
    max_new_tokens: int
    sub_tasks: dict[str, str] | None = None
    corpus: dict[str, str] = Field(default_factory=dict)


class HeadEntry(Stored):
    """The trained head that a strategy drafts with: where it is, its kind, and the number of its parameters.

    `right` are the shares of its likeliest tokens that were right on held-out answers, by depth.
    """

    name: str
    kind: str
    parameters: int
    right: list[float]


class StrategyEntry(Stored):
    """A strategy of a run; `unsupported` is the reason it was not run, `files` the hashes of files that knobs name.

    `needs` are those of the strategy; older runs do not tell. `head` is its trained head, if it has one.
    """

    spec: str
    name: str
    family: str
    guarantee: str
    paper: str
    knobs: dict[str, Any]
    unsupported: str | None = None
    files: dict[str, str] = Field(default_factory=dict)
    needs: list[str] | None = None
    head: HeadEntry | None = None

    def needs_draft(self, forwards: float) -> bool:
        """Return whether it needs a draft model; in an older run, whether its drafts took `forwards` forward passes."""
        return forwards > 0 if self.needs is None else "draft" in self.needs

    @field_validator("guarantee", mode="before")
    @classmethod
    def _present_name(cls, guarantee: str) -> str:
        """Replace `exact-law`, the name in older runs, by `distribution-preserving`."""
        return "distribution-preserving" if guarantee == "exact-law" else guarantee


class ModelEntry(Stored):
    """A model of a run: its source, the hash of its weights, and that of what turns text to tokens.

    `tokenizer` is the hash of the tokenizer, the chat template and EOS, "" if unknown. Older runs have no `sizes`, nor
    have models whose layers differ in size.
    """

    name: str
    architecture: str
    parameters: int
    dtype: str
    fingerprint: str
    tokenizer: str = ""
    sizes: Sizes | None = None


class Manifest(Stored):
    """The description of a run; a run is resumed only if its `identity` is unchanged.

    `planned` is the number of its samples, None in older runs. `config["shard"]` names its share of a run, and
    `merged` the shards of a merged run. A strategy left a task when the interval of its score was within `precision`;
    `spared` has the samples that were left out so, by task and strategy.
    """

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
    planned: int | None = None
    merged: list[str] = Field(default_factory=list)
    precision: float | None = None
    spared: dict[str, dict[str, int]] = Field(default_factory=dict)

    @property
    def spared_samples(self) -> int:
        """The number of all spared samples."""
        return sum(sum(of_task.values()) for of_task in self.spared.values())

    def identity(self) -> dict[str, Any]:
        """Return the fields that identify a run.

        The hash of the data counts, not its location, nor whether programs were allowed to run.
        """
        kept = {"schema_version", "baseline", "config", "strategies", "tasks", "model", "draft"}
        identity = self.model_dump(mode="json", include=kept)
        for model in (identity["model"], identity["draft"]):
            if model:
                del model["sizes"]
        for strategy in identity["strategies"]:
            del strategy["needs"]
        for task in identity["tasks"]:
            del task["data"], task["corpus"]
            task["unscored"] = None if task["unscored"] == CODE_NOT_RUN else task["unscored"]
        return identity
