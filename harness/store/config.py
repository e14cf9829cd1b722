"""What a run is asked to do: one frozen dataclass, filled from the command line or a TOML file."""

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from harness.errors import UserError, suggestion

BACKENDS = ("transformers", "vllm", "openai")


@dataclass(frozen=True)
class RunConfig:
    """A run's settings; empty `strategies` and `tasks` mean the defaults of `harness.run.plan`.

    `limit` caps the examples of a task, `samples` asks for several continuations a prompt, `repeats` runs everything
    again, `concurrency` is how many texts are decoded together. `draft` and `device` are chosen when None or "auto".
    `share_prefix` reads the start that all prompts of a task have in common only once, `cache_gb` limits the memory
    for keys and values (half of what is free when None), `compile` runs the forward through `torch.compile`.
    `engine` holds options of another backend's engine, each as NAME=VALUE. `base_url` is the address of a server, and
    `key_variable` the environment variable that holds its key. With `request_rate` requests are sent to it as they
    arrive, so many a second on average and at random times, however many are under way.
    `texts` asks for the metrics of texts in the end, in every task or in none; when None, in open-ended ones and where
    there are several samples. `scorer` is the model that judges them, the evaluated one when None.
    """

    model: str = "nano"
    draft: str | None = None
    tokenizer: str | None = None
    strategies: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    limit: int | None = None
    concurrency: int = 1
    samples: int = 1
    repeats: int = 1
    max_new_tokens: int | None = None
    seed: int = 0
    backend: str = "transformers"
    engine: tuple[str, ...] = ()
    base_url: str | None = None
    key_variable: str | None = None
    request_rate: float | None = None
    dtype: str = "float32"
    device: str = "auto"
    threads: int | None = None
    data: Path | None = None
    plugins: tuple[Path, ...] = ()
    allow_code_execution: bool = False
    truncate_prompts: bool = False
    share_prefix: bool = True
    cache_gb: float | None = None
    compile: bool = False
    baseline: str = "greedy"
    texts: bool | None = None
    scorer: str | None = None
    output: Path | None = None

    def __post_init__(self) -> None:
        """Refuse numbers below one and unknown backends with a `UserError`."""
        for key in ("limit", "concurrency", "samples", "repeats", "max_new_tokens", "threads"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise UserError(f"--{key.replace('_', '-')} must be at least 1, not {value}.")
        if self.cache_gb is not None and not self.cache_gb > 0:
            raise UserError(f"--cache-gb must be above 0, not {self.cache_gb:g}.")
        if self.backend not in BACKENDS:
            raise UserError(f"There is no backend '{self.backend}'.{suggestion(self.backend, BACKENDS)}")
        self._check_server()
        if self.backend == "transformers" and self.engine:
            raise UserError("--engine is for another backend's engine; name one with --backend, or leave it out.")

    def _check_server(self) -> None:
        """Refuse options of a server without one, and a rate that is none or that a concurrency would hold back."""
        for key in ("base_url", "key_variable", "request_rate"):
            if self.backend != "openai" and getattr(self, key) is not None:
                raise UserError(f"--{key.replace('_', '-')} is for a server: give --backend openai, or leave it out.")
        if self.request_rate is not None and not 0 < self.request_rate < float("inf"):
            raise UserError(f"--request-rate must be above 0 requests a second, not {self.request_rate:g}.")
        if self.request_rate is not None and self.concurrency > 1:
            raise UserError("--request-rate sends a request when it arrives, however many are under way: "
                            "leave --concurrency out.")

    @property
    def alone(self) -> bool:
        """Whether texts are decoded one at a time."""
        return self.concurrency == 1 and self.request_rate is None

    @classmethod
    def from_toml(cls, path: Path, **overrides: Any) -> Self:
        """Read settings from a file, `overrides` first; raises `UserError` on an unknown key or a wrong type."""
        try:
            loaded = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UserError(f"There is no configuration file {path}.") from None
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise UserError(f"{path} cannot be read as TOML: {error}.") from None
        fields = {f.name: f.type.__name__ if isinstance(f.type, type) else str(f.type) for f in dataclasses.fields(cls)}
        values: dict[str, Any] = {}
        for key, value in loaded.items():
            name = key.replace("-", "_")
            if name not in fields:
                raise UserError(f"{path} has an unknown key '{key}'.{suggestion(name, fields)}")
            values[name] = _typed(path, key, value, fields[name])
        return cls(**{**values, **overrides})


def _typed(path: Path, key: str, value: Any, kind: str) -> Any:
    """Check a TOML value against a field's type, turning lists into tuples and strings into paths."""
    if kind.startswith("tuple"):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UserError(f"{path}: '{key}' must be a list of strings.")
        return tuple(Path(item) if "Path" in kind else item for item in value)
    wanted: dict[str, tuple[tuple[type, ...], str]] = {
        "int": ((int,), "a whole number"), "float": ((int, float), "a number"), "bool": ((bool,), "true or false"),
        "Path": ((str,), "a path"), "str": ((str,), "a string")}
    python, words = wanted[kind.split(" |")[0].replace("pathlib.", "")]
    if not isinstance(value, python) or (isinstance(value, bool) and bool not in python):
        raise UserError(f"{path}: '{key}' must be {words}, not {value!r}.")
    return Path(str(value)) if "Path" in kind else value
