"""The fields of a request for each strategy and kind of server, and the reason wherever a server has none."""

from typing import Any

import pytest

from harness.backends.openai_fields import NEUTRAL, fields
from harness.errors import Unsupported
from harness.plugins.registry import STRATEGIES

COLD = {"temperature": 0.0, "top_p": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
VLLM = {**COLD, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}  # its own neutral values, of CompletionRequest


@pytest.mark.parametrize(("spec", "changed"), [
    ("greedy", {}),
    ("temperature:temperature=0.7", {"temperature": 0.7}),
    ("top_p:p=0.9", {"temperature": 1.0, "top_p": 0.9}),
    ("top_k:k=7,temperature=0.5", {"temperature": 0.5, "top_k": 7}),
    ("min_p:share=0.2", {"temperature": 1.0, "min_p": 0.2}),
    ("greedy+repetition_penalty:penalty=1.3", {"repetition_penalty": 1.3}),
    ("top_p:p=0.9+frequency_penalty:presence=0.5,frequency=-1",
     {"temperature": 1.0, "top_p": 0.9, "presence_penalty": 0.5, "frequency_penalty": -1.0}),
    ("beam:width=3,length_rule=none", {"use_beam_search": True, "n": 3, "length_penalty": 0.0}),
    ("beam:width=3,length_rule=full,length_penalty=2", {"use_beam_search": True, "n": 3, "length_penalty": 2.0}),
    ("beam:length_penalty=0", {"use_beam_search": True, "n": 4, "length_penalty": 0.0}),
])
def test_vllm_is_sent_every_knob_that_it_has(spec: str, changed: dict[str, Any]) -> None:
    assert dict(fields(STRATEGIES.build(spec), "vLLM")) == {**VLLM, **changed}


def test_what_an_unknown_server_is_sent_is_in_openais_own_reference() -> None:
    assert dict(fields(STRATEGIES.build("top_p:p=0.9"), "")) == {**COLD, "temperature": 1.0, "top_p": 0.9}


def test_neutral_values_change_nothing_in_any_server() -> None:
    assert [NEUTRAL[kind]["top_k"] for kind in ("SGLang", "vLLM", "llama.cpp")] == [-1, 0, 0]
    order = NEUTRAL["llama.cpp"]["samplers"]
    assert order.index("temperature") < min(order.index(name) for name in ("top_k", "top_p", "min_p"))


@pytest.mark.parametrize(("spec", "changed"), [
    ("xtc:protect=false,temperature=0.7", {"temperature": 0.7, "xtc_probability": 0.5, "xtc_threshold": 0.1,
                                           "samplers": ["xtc", "temperature"]}),
    ("dynamic_temperature:temperature=0.8", {"temperature": 0.8, "dynatemp_range": 0.5, "dynatemp_exponent": 1.0}),
    ("dynamic_temperature:temperature=0", {"temperature": 0.0, "dynatemp_range": 0.0, "dynatemp_exponent": 1.0}),
])
def test_llama_cpp_is_sent_the_samplers_that_vllm_does_not_have(spec: str, changed: dict[str, Any]) -> None:
    strategy = STRATEGIES.build(spec)
    assert dict(fields(strategy, "llama.cpp")) == {**NEUTRAL["llama.cpp"], **changed}
    with pytest.raises(Unsupported, match="cannot warp logits"):
        fields(STRATEGIES.build(f"{strategy.name}:temperature=0.7"), "SGLang")


@pytest.mark.parametrize(("spec", "kind", "reason"), [
    ("speculative", "vLLM", "drafts are a setting of the server"),
    ("prompt_lookup:temperature=0.7", "", "drafts are a setting of the server"),
    ("suffix_decoding", "vLLM", "drafts are a setting of the server"),
    ("contrastive_search", "vLLM", "no equivalent"),
    ("typical", "vLLM", "cannot warp logits in this way; --backend vllm can"),
    ("greedy+repetition_penalty:prompt=false", "vLLM", "cannot warp logits"),
    ("top_k", "", "an OpenAI-compatible server has no top_k"),
    ("min_p", "", "has no min_p"),
    ("greedy+repetition_penalty", "", "has no repetition_penalty"),
    ("greedy+repetition_penalty", "llama.cpp", "llama.cpp has no repetition_penalty"),
    ("greedy+frequency_penalty", "llama.cpp", "llama.cpp has no presence_penalty"),
    ("xtc", "llama.cpp", "leaves out EOS like any other token: take protect=false"),
    ("min_k", "llama.cpp", "a request to llama.cpp cannot warp logits"),
    ("adaptive_p", "llama.cpp", "no equivalent"),
    ("temperature+arithmetic_sampling", "vLLM", "no equivalent"),
    ("beam:length_rule=none", "SGLang", "SGLang has no beam search"),
    ("beam:length_rule=none", "", "an OpenAI-compatible server has no beam search"),
    ("beam", "vLLM", "take length_rule=full or none"),
    ("beam:length_rule=gnmt", "vLLM", "take length_rule=full or none"),
    ("beam:length_rule=none,early_stopping=true", "vLLM", "early_stopping=true would have no effect"),
    ("temperature:temperature=0.005", "vLLM", "below 0.01"),
])
def test_what_a_server_cannot_be_asked_says_why(spec: str, kind: str, reason: str) -> None:
    with pytest.raises(Unsupported, match=reason):
        fields(STRATEGIES.build(spec), kind)


def test_a_server_that_drafts_is_not_asked_for_what_it_then_leaves_out() -> None:
    with pytest.raises(Unsupported, match="drafts, and then leaves out min_p"):
        fields(STRATEGIES.build("min_p"), "vLLM", speculates=True)
    assert fields(STRATEGIES.build("top_p"), "vLLM", speculates=True)["min_p"] == 0
