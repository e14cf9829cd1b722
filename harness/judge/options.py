"""What a judging is asked to do, and the judge that this means."""

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
    """The options of `decodebench judge`, as they are named there; prices are those of a million tokens."""

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
        """Refuse with a `UserError` what does not go together."""
        if self.mode not in MODES:
            raise UserError(f"There is no mode '{self.mode}'.{suggestion(self.mode, MODES)}")
        if self.max_price is not None and self.price.of(0, 0) is None:
            raise UserError("--max-price needs the prices of tokens: give --price-in and --price-out, per million.")
        if self.here and self.repeats > 1:
            raise UserError("A judge that is run here says the same each time: leave --repeats out, "
                            "or give --base-url.")
        if self.here and self.settings:
            raise UserError("--setting is for endpoints: a judge that is run here decodes greedily.")

    @property
    def price(self) -> Price:
        """What tokens cost, and what may be spent."""
        return Price(self.price_in, self.price_out, self.max_price)

    @property
    def here(self) -> bool:
        """Whether the judge is a model that the harness loads, rather than one behind an endpoint."""
        known = self.judge in nano.NAMES or "/" in self.judge or Path(self.judge).is_dir()
        return self.base_url is None and known

    def build(self) -> Judge:
        """The judge; raises `UserError` when its model, its address or its key cannot be used."""
        if self.here:
            from harness.judge.local import Local  # torch is of no use to an endpoint

            return Local(self.judge, self.max_tokens, dtype=self.dtype, device=self.device,
                         concurrency=self.concurrency)
        where = (self.base_url or OPENAI).rstrip("/")
        key, settings = key_for(where, self.key_variable), sent(self.max_tokens, self.settings or ())
        return Endpoint(self.judge, where, key, settings, concurrency=self.concurrency, timeout=self.timeout,
                        tries=self.tries, price=self.price)

    def against(self, store: Store) -> str:
        """The strategy to compare with, by its spec; empty when none is."""
        if self.mode == "single":
            return ""
        specs = [one.spec for one in store.manifest.strategies]
        wanted = self.baseline or store.manifest.baseline
        named = [spec for spec in specs if spec == wanted] or [s for s in specs if Spec.parse(s).names == wanted]
        if len(named) != 1:
            raise UserError(f"The run has {'more than one' if named else 'no'} strategy '{wanted}'."
                            f"{suggestion(wanted, specs)}")
        return named[0]


def sent(max_tokens: int, given: Sequence[str]) -> dict[str, Any]:
    """What is sent with every request: what FastChat's judge sends, changed by `given`, each NAME=VALUE."""
    found: dict[str, Any] = {"temperature": 0, "max_tokens": max_tokens}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--setting must be NAME=VALUE, not '{text}'.")
        try:
            found[name.strip()] = json.loads(value)
        except ValueError:
            found[name.strip()] = value
    return {name: value for name, value in found.items() if value is not None}
