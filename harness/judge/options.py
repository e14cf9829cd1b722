"""Options of `decodebench judge`, and the judge that they select."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import nano
from harness.backends.openai_connection import OPENAI, key_for
from harness.errors import UserError, suggestion
from harness.judge.endpoint import Endpoint, Price
from harness.judge.reply import Judge
from harness.judge.verdicts import MODES, Mode
from harness.plugins.spec import Spec
from harness.store.folder import Store


@dataclass(frozen=True)
class Options:
    """The options of `decodebench judge`, under the same names; prices are per million tokens."""

    run: Path
    judge: str = "gpt-4"
    base_url: str | None = None
    key_variable: str | None = None
    mode: Mode = "single"
    baseline: str | None = None
    tasks: Sequence[str] | None = None
    repeats: int = 1
    concurrency: int = 4
    max_tokens: int = 2048
    settings: Sequence[str] | None = None
    timeout: float = 600.0
    tries: int = 8
    price_in: float | None = None
    price_out: float | None = None
    max_price: float | None = None
    yes: bool = False
    data: Path | None = None
    dtype: str = "float32"
    device: str = "auto"
    plugins: Sequence[Path] | None = None

    def __post_init__(self) -> None:
        """Raise `UserError` for options that contradict each other."""
        if self.mode not in MODES:
            raise UserError(f"There is no mode '{self.mode}'.{suggestion(self.mode, MODES)}")
        if self.max_price is not None and self.price.of(0, 0) is None:
            raise UserError("--max-price needs --price-in and --price-out, the prices of a million tokens.")
        if self.local and self.repeats > 1:
            raise UserError("A local judge is deterministic: omit --repeats, or use an endpoint with --base-url.")
        if self.local and self.settings:
            raise UserError("--setting works with endpoints only: a local judge decodes greedily.")

    @property
    def price(self) -> Price:
        """Return the prices of tokens and the maximum total."""
        return Price(self.price_in, self.price_out, self.max_price)

    @property
    def local(self) -> bool:
        """Return whether the judge is a local model rather than one behind an endpoint."""
        local = self.judge in nano.NAMES or "/" in self.judge or Path(self.judge).is_dir()
        return self.base_url is None and local

    def build(self) -> Judge:
        """Return the judge; raises `UserError` if its model, URL or key is invalid."""
        if self.local:
            from harness.judge.local import Local  # an endpoint does not need torch

            return Local(self.judge, self.max_tokens, dtype=self.dtype, device=self.device,
                         concurrency=self.concurrency)
        where = (self.base_url or OPENAI).rstrip("/")
        key, settings = key_for(where, self.key_variable), request_settings(self.max_tokens, self.settings or ())
        return Endpoint(self.judge, where, key, settings, concurrency=self.concurrency, timeout=self.timeout,
                        tries=self.tries, price=self.price)

    def against(self, store: Store) -> str:
        """Return the spec of the strategy to compare with; empty in mode `single`."""
        if self.mode == "single":
            return ""
        specs = [one.spec for one in store.manifest.strategies]
        wanted = self.baseline or store.manifest.baseline
        named = [spec for spec in specs if spec == wanted] or [s for s in specs if Spec.parse(s).names == wanted]
        if len(named) != 1:
            raise UserError(f"The run has {'more than one' if named else 'no'} strategy '{wanted}'."
                            f"{suggestion(wanted, specs)}")
        return named[0]


def request_settings(max_tokens: int, changes: Sequence[str]) -> dict[str, Any]:
    """Return the parameters of every request: those of FastChat's judge, changed by `changes` (NAME=VALUE)."""
    settings: dict[str, Any] = {"temperature": 0, "max_tokens": max_tokens}
    for text in changes:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--setting must be NAME=VALUE, not '{text}'.")
        try:
            settings[name.strip()] = json.loads(value)
        except ValueError:
            settings[name.strip()] = value
    return {name: value for name, value in settings.items() if value is not None}
