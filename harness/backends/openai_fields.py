"""Maps strategies to the fields of a request: vLLM's options, for the kinds of server that support them.

All fields that a kind of server supports are always sent, because the defaults differ: vLLM and SGLang use the model's
generation_config.json, and llama.cpp cuts to 40 tokens.
"""

from collections.abc import Callable, Mapping
from typing import Any

from harness.backends.vllm_options import call
from harness.errors import Unsupported
from harness.plugins.strategy import Strategy

Fields = Mapping[str, Any]

PLAIN: Fields = {"temperature": 0.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
NEUTRAL: Mapping[str, Fields] = {
    "": PLAIN,
    "vLLM": {**PLAIN, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
    "SGLang": {**PLAIN, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    "llama.cpp": {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0,
                  "dynatemp_range": 0.0, "samplers": ["temperature", "top_k", "top_p", "min_p"]},
}
"""The fields of each kind of server at neutral values; temperature 0 is greedy in all of them.

llama.cpp by default cuts before it divides by the temperature, and its penalties cover the last 64 tokens only.
"""


def _xtc(knobs: Fields) -> Fields:
    if knobs["protect"] and knobs["probability"]:
        raise Unsupported("llama.cpp leaves out EOS like any other token: take protect=false")
    return {"temperature": knobs["temperature"], "xtc_probability": knobs["probability"],
            "xtc_threshold": knobs["threshold"], "samplers": ["xtc", "temperature"]}


def _dynamic_temperature(knobs: Fields) -> Fields:
    return {"temperature": knobs["temperature"], "dynatemp_exponent": knobs["exponent"],
            "dynatemp_range": knobs["spread"] if knobs["temperature"] else 0.0}


LLAMA_CPP: Mapping[str, Callable[[Fields], Fields]] = {"xtc": _xtc, "dynamic_temperature": _dynamic_temperature}
"""The fields of llama.cpp, by the name of the strategy, for samplers that vLLM does not have."""


def fields(strategy: Strategy, kind: str, speculates: bool = False) -> Fields:
    """Return the fields of a request for `strategy`; raises `Unsupported` if this kind of server cannot run it."""
    if strategy.family == "speculative":
        raise Unsupported("drafts are a setting of the server, not of a request: run greedy or a sampler against one "
                          "that drafts and one that does not")
    if kind == "llama.cpp" and strategy.name in LLAMA_CPP:
        return {**NEUTRAL[kind], **LLAMA_CPP[strategy.name](strategy.values())}
    how, name = call(strategy, None), kind or "an OpenAI-compatible server"
    if how.warps:
        raise Unsupported(f"a request to {name} cannot warp logits in this way; --backend vllm can")
    if how.beam:
        return {**NEUTRAL[kind], **_beam(how.beam, kind)}
    for field in how.sampling:
        if field not in NEUTRAL[kind]:
            raise Unsupported(f"a request to {name} has no {field}")
    if speculates and "min_p" in how.sampling:
        raise Unsupported("this server drafts, and then leaves out min_p")
    return {**NEUTRAL[kind], **how.sampling}


def _beam(knobs: Fields, kind: str) -> Fields:
    """Return the fields of vLLM's beam search, which divides log p by a power of the length of prompt and answer."""
    if kind != "vLLM":
        raise Unsupported(f"{kind or 'an OpenAI-compatible server'} has no beam search")
    if knobs["length_rule"] not in ("full", "none") and knobs["length_penalty"]:
        raise Unsupported("vLLM's server divides log p by the length of prompt and answer: take length_rule=full "
                          "or none, or --backend vllm")
    penalty = 0.0 if knobs["length_rule"] == "none" else knobs["length_penalty"]
    return {"use_beam_search": True, "n": knobs["width"], "length_penalty": penalty}
