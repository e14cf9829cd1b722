"""Maps strategies to arguments of `generate` in transformers."""

from collections.abc import Callable, Mapping
from typing import Any

from harness.plugins.strategy import Strategy

Knobs = Mapping[str, Any]
GREEDY: dict[str, Any] = {"do_sample": False}
DRAFT = "draft_model"  # the name of the loaded draft model in a command


def generate_options(strategy: Strategy) -> dict[str, Any] | None:
    """Return the arguments with which `generate` decodes like `strategy`, None if it cannot."""
    found = OPTIONS.get(strategy.name)
    return found(strategy.values()) if found else None


def as_text(options: Mapping[str, Any]) -> str:
    """Return a call of `generate` with these arguments."""
    arguments = (f"{name}={value if value == DRAFT else repr(value)}" for name, value in options.items())
    return f"model.generate({', '.join(['**inputs', *arguments])})"


def _sampled(**names: str) -> Callable[[Knobs], dict[str, Any]]:
    """Return the arguments of plain sampling; `names` maps arguments of `generate` to knobs."""
    def options(knobs: Knobs) -> dict[str, Any]:
        if not knobs["temperature"]:
            return GREEDY
        own = {argument: knobs[knob] for argument, knob in names.items()}
        return {"do_sample": True, "temperature": knobs["temperature"], "top_k": 0, **own}
    return options


def _beam(knobs: Knobs) -> dict[str, Any] | None:
    if knobs["length_rule"] != "power" or knobs["offset"] or knobs["finished"] != "pooled":
        return None
    early = {"true": True, "false": False}.get(knobs["early_stopping"], knobs["early_stopping"])
    return {**GREEDY, "num_beams": knobs["width"], "length_penalty": knobs["length_penalty"], "early_stopping": early}


def _lookup(knobs: Knobs) -> dict[str, Any] | None:
    if knobs["latest"] or knobs["min_ngram"] != 1 or knobs["variant"] != "longest" or knobs["temperature"]:
        return None
    return {**GREEDY, "prompt_lookup_num_tokens": knobs["length"], "max_matching_ngram_size": knobs["max_ngram"]}


def _speculative(knobs: Knobs) -> dict[str, Any] | None:
    if knobs["policy"] != "fixed" or knobs["verify"] != "token" or knobs["temperature"]:
        return None
    return {**GREEDY, "assistant_model": DRAFT, "num_assistant_tokens": knobs["gamma"],
            "num_assistant_tokens_schedule": "constant", "assistant_confidence_threshold": 0.0}


OPTIONS: dict[str, Callable[[Knobs], dict[str, Any] | None]] = {
    "greedy": lambda knobs: GREEDY, "temperature": _sampled(), "top_p": _sampled(top_p="p"),
    "top_k": _sampled(top_k="k"), "min_p": _sampled(min_p="share"), "typical": _sampled(typical_p="mass"),
    "epsilon": _sampled(epsilon_cutoff="least"), "eta": _sampled(eta_cutoff="least"), "beam": _beam,
    "prompt_lookup": _lookup, "speculative": _speculative,
}
