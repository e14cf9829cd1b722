"""The settings of a run: one frozen dataclass, validated by pydantic, filled from the command line or a TOML file."""

import json
import tomllib
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.dataclasses import dataclass

from harness.errors import UserError, suggestion
from harness.store.duration import seconds
from harness.store.shard import Shard

BACKENDS = ("transformers", "vllm", "openai")
DEVICE_MAPS = ("auto", "balanced", "sequential")
ALIASES = {"batch_size": "concurrency", "max_tokens": "max_new_tokens", "draft_model": "draft",
           "num_samples": "samples", "api_key_env": "key_variable"}
KINDS = {"int_type": "a whole number", "float_type": "a number", "bool_type": "true or false",
         "string_type": "a string", "is_instance_of": "a path", "tuple_type": "a list of strings",
         "finite_number": "a finite number"}


def _home(value: Any) -> Any:
    return Path(value).expanduser() if isinstance(value, str | Path) else value


def _listed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Precision = Annotated[float, Field(gt=0, lt=0.5)]
Place = Annotated[Path, BeforeValidator(_home)]
Strings = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Places = Annotated[tuple[Place, ...], BeforeValidator(_listed)]


class Rejected(UserError):
    """A setting of `RunConfig`, named by `field`, has an invalid value."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(sentence)
        self.field = field


@dataclass(frozen=True, config=ConfigDict(strict=True, extra="forbid"))
class RunConfig:
    """A run's settings; empty `strategies` and `tasks` mean the defaults of `harness.run.selection`.

    `preset` names a set of strategies (`harness.run.presets`). `limit` caps the examples of a task, `samples` is the
    number of answers to each prompt, and `repeats` runs everything several times. `concurrency` is the batch size: the
    sequences decoded in one batch (continuous batching). `draft` and `device` are chosen when None or "auto", `heads`
    are trained heads of the model; `dtype` None is float32 on a CPU and bfloat16 on a GPU. `device_map` spreads the
    layers of the model over all GPUs (`harness.models.spread`). `share_prefix` prefills the common prefix of a task's
    prompts only once, `cache_gb` limits the KV cache (half of the free memory when None), `compile` runs the forward
    pass through `torch.compile`. `engine` holds options of another backend's engine, and `template_args` variables of
    the chat template, each as NAME=VALUE. `rope` scales the model's rotary positions (`harness.models.rope`).
    `base_url` is the address of a server, and `key_variable` the environment variable that holds its key. With
    `request_rate`, requests are sent to it at random times, at this average rate per second, without waiting for
    answers. `texts` computes text metrics in all tasks or in none; when None, in open-ended tasks or with several
    samples. `scorer` is the model that computes them, the evaluated one when None. `trace` "full" keeps the draft or
    search tree of each step, and the ranks of sampled tokens. `shard` is the share of the blocks to run, as 2/8, and
    `budget` the time until the run ends, as 30m. A strategy leaves a task when the 95 % interval of its score is within
    `precision`. Raises `UserError` for an invalid value.
    """

    model: str = "nano"
    draft: str | None = None
    heads: Strings = ()
    tokenizer: str | None = None
    template_args: Strings = ()
    rope: str = ""
    strategies: Strings = ()
    preset: str | None = None
    tasks: Strings = ()
    limit: Count | None = None
    concurrency: Count = 1
    samples: Count = 1
    repeats: Count = 1
    max_new_tokens: Count | None = None
    seed: int = 0
    backend: str = "transformers"
    engine: Strings = ()
    base_url: str | None = None
    key_variable: str | None = None
    request_rate: Positive | None = None
    dtype: str | None = None
    device: str = "auto"
    device_map: str = ""
    threads: Count | None = None
    data: Place | None = None
    plugins: Places = ()
    allow_code_execution: bool = False
    truncate_prompts: bool = False
    share_prefix: bool = True
    cache_gb: Positive | None = None
    compile: bool = False
    baseline: str = "greedy"
    texts: bool | None = None
    scorer: str | None = None
    trace: str | None = None
    shard: str | None = None
    budget: str | None = None
    precision: Precision | None = None
    output: Place | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _rejected_in_a_sentence(cls, values: Any, validate: Any) -> Any:
        try:
            return validate(values)
        except ValidationError as error:
            raise _rejected(error) from None

    @field_validator("shard")
    @classmethod
    def _share(cls, shard: str | None) -> str | None:
        try:
            return None if shard is None or Shard.parse(shard).shards == 1 else shard
        except UserError as error:
            raise Rejected("shard", str(error)) from None

    @field_validator("budget")
    @classmethod
    def _time(cls, budget: str | None) -> str | None:
        try:
            _ = budget is not None and seconds(budget)
        except UserError as error:
            raise Rejected("budget", str(error)) from None
        return budget

    @field_validator("backend")
    @classmethod
    def _known(cls, backend: str) -> str:
        if backend not in BACKENDS:
            raise Rejected("backend", f"There is no backend '{backend}'.{suggestion(backend, BACKENDS)}")
        return backend

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        """Reject options of another backend, and two options that say the same thing differently."""
        for key in ("base_url", "key_variable", "request_rate"):
            if self.backend != "openai" and getattr(self, key) is not None:
                raise Rejected(key, f"{option(key)} is for a server: give --backend openai, or leave it out.")
        if self.request_rate is not None and self.concurrency > 1:
            raise Rejected("request_rate", "--request-rate sends each request when it arrives, so it limits no batch: "
                                           "leave --concurrency out.")
        if self.trace not in (None, "full"):
            raise Rejected("trace", f"--trace must be full, or be left out, not '{self.trace}'.")
        if self.trace and self.backend != "transformers":
            raise Rejected("trace", "--trace full needs --backend transformers, which alone has the trees of steps.")
        if self.rope and self.backend != "transformers":
            raise Rejected("rope", "--rope needs --backend transformers: leave it out, or give the engine its "
                                   "own option.")
        if self.device_map:
            self._check_device_map()
        if self.precision and self.shard:
            raise Rejected("precision", "--precision looks at all examples of a task, and a shard has only some: leave "
                                        "it out, or give --shard 1/1.")
        if self.precision and self.request_rate is not None:
            raise Rejected("precision", "--precision stops between blocks of examples, and --request-rate makes all of "
                                        "them one: leave one of the two out.")
        if self.preset and self.strategies:
            raise Rejected("preset", "--preset chooses the strategies: leave it out, or leave out --strategy.")
        if self.backend == "transformers" and self.engine:
            raise Rejected("engine", "--engine is for another backend's engine; name one with --backend, or leave it "
                                     "out.")
        return self

    def _check_device_map(self) -> None:
        if self.device_map not in DEVICE_MAPS:
            raise Rejected("device_map", f"There is no device map '{self.device_map}'."
                                         f"{suggestion(self.device_map, DEVICE_MAPS)}")
        if self.backend != "transformers":
            raise Rejected("device_map", "--device-map needs --backend transformers: leave it out, or give the engine "
                                         "its own option, as --engine tensor_parallel_size=2 for vllm.")
        if ":" in self.device:
            raise Rejected("device_map", "--device-map takes all GPUs: leave --device out, and set "
                                         "CUDA_VISIBLE_DEVICES to choose among them.")
        if self.compile:
            raise Rejected("device_map", "--compile needs the whole model on one device: leave it or --device-map out.")

    @property
    def batch_size(self) -> int | None:
        """The number of sequences decoded in one batch; None when requests are sent as they arrive."""
        return self.concurrency if self.request_rate is None else None

    @classmethod
    def from_toml(cls, path: Path, **overrides: Any) -> Self:
        """Read settings from a file; `overrides` come first. Raises `UserError` on an unknown key or wrong value."""
        try:
            loaded = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"There is no configuration file {path}.") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UserError(f"{path} cannot be read as TOML: {error}.") from None
        known, values = {field.name for field in fields(cls)}, dict[str, Any]()
        for key, value in loaded.items():
            name = key.replace("-", "_")
            name = ALIASES.get(name, name)
            if name not in known:
                raise UserError(f"{path} has an unknown key '{key}'.{suggestion(name, known)}")
            if name in values:
                raise UserError(f"{path} gives {name} twice, the second time as '{key}'; leave one out.")
            values[name] = value
        try:
            return cls(**{**values, **overrides})
        except Rejected as error:
            raise UserError(str(error) if error.field in overrides else f"{path}: {error}") from None


def named_value(option: str, text: str) -> tuple[str, Any]:
    """`enforce_eager=true` → its name and value, read as JSON where it is JSON; raises `UserError` without a name."""
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise UserError(f"Write {option} as NAME=VALUE, not '{text}'.")
    try:
        return name, json.loads(value)
    except json.JSONDecodeError:
        return name, value


def option(field: str) -> str:
    """Return the command-line option of a setting: `max_new_tokens` → `--max-new-tokens`."""
    return f"--{field.replace('_', '-')}"


def _rejected(errors: ValidationError) -> Rejected:
    """Return the first error as a sentence that names the option."""
    error = errors.errors()[0]
    name, *inner = map(str, error["loc"])
    limits = error.get("ctx", {})
    wanted = (f"at least {limits['ge']:g}" if "ge" in limits else f"above {limits['gt']:g}" if "gt" in limits else
              f"below {limits['lt']:g}" if "lt" in limits else
              "a list of strings" if inner else KINDS.get(error["type"], "valid"))
    value = error["input"]
    return Rejected(name, f"{option(name)} must be {wanted}, not {value if isinstance(value, float) else repr(value)}.")
