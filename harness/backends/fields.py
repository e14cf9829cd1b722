"""From a strategy to the fields of a request, for each kind of server: one table, and the reason for every gap in it.

Every knob that a kind of server has is always sent, for some servers have defaults of the model's own (vLLM and SGLang
read them from its generation_config.json) and others of theirs (llama.cpp cuts to 40 tokens).
"""

from collections.abc import Mapping
from typing import Any

from harness.errors import Unsupported
from harness.strategy import Over, Strategy

Fields = Mapping[str, Any]

PLAIN: Mapping[str, Any] = {"temperature": 0.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
NEUTRAL: Mapping[str, Mapping[str, Any]] = {
    "": PLAIN,
    "vLLM": {**PLAIN, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0},
    "SGLang": {**PLAIN, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    "llama.cpp": {**PLAIN, "top_k": 0, "min_p": 0.0, "repeat_penalty": 1.0, "typical_p": 1.0,
                  "samplers": ["penalties", "temperature", "top_k", "top_p", "min_p"]},
}
"""What each kind of server can be asked, at the value that changes nothing; temperature 0 is greedy in all of them."""

KNOBS = {"greedy": {}, "temperature": {"temperature": "temperature"},
         "top_p": {"p": "top_p", "temperature": "temperature"}, "top_k": {"k": "top_k", "temperature": "temperature"},
         "min_p": {"share": "min_p", "temperature": "temperature"},
         "frequency_penalty": {"presence": "presence_penalty", "frequency": "frequency_penalty"},
         "repetition_penalty": {"penalty": "repetition_penalty"}}
"""Knobs of strategies and the fields that mean the same."""

IGNORED = {"min_p": 0.0}  # fields that vLLM takes and does not heed while it drafts


def fields(strategy: Strategy, kind: str, speculates: bool = False) -> Fields:
    """What a request for `strategy` holds; raises `Unsupported` with the reason when such a server cannot be asked."""
    found = {**NEUTRAL[kind], **(_beam(strategy, kind) if strategy.name == "beam" else _asked(strategy, kind))}
    if speculates:
        for name, neutral in IGNORED.items():
            if found[name] != neutral:
                raise Unsupported(f"this server drafts, and {kind} then ignores {name}")
    return found


def _asked(strategy: Strategy, kind: str) -> Fields:
    if strategy.family == "speculative":
        raise Unsupported("speculation is a setting of the server itself, not of a request: start it with and without, "
                          "and run greedy or a sampler against each")
    if strategy.name not in KNOBS:
        raise Unsupported(f"a request to {kind or 'an OpenAI-compatible server'} has no field for it")
    found = _asked(strategy.over, kind) if isinstance(strategy, Over) else {}
    if strategy.name == "repetition_penalty" and not strategy.values()["prompt"]:
        raise Unsupported(f"{kind or 'the server'} counts the prompt's tokens too: take prompt=true")
    values = {field: strategy.values()[knob] for knob, field in KNOBS[strategy.name].items()}
    for field, value in values.items():
        if field not in NEUTRAL[kind] and not (kind == "llama.cpp" and field == "repetition_penalty"):
            raise Unsupported(f"a request to {kind or 'an OpenAI-compatible server'} has no field {field}")
        if field in found and found[field] != value:
            raise Unsupported(f"a request holds one {field}, and this is two")
    return {**found, **values}


def _beam(strategy: Strategy, kind: str) -> Fields:
    """The beam search that vLLM's server does by itself, with the rules that it has."""
    values = strategy.values()
    if kind != "vLLM":
        raise Unsupported(f"{kind or 'this server'} has no beam search")
    return {"use_beam_search": True, "n": values["width"], "length_penalty": values["length_penalty"]}
