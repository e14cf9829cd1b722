"""Tiny deterministic causal language models for the tests.

The classes are the unmodified ones of transformers; only the weights are ours.  They are drawn from numpy, parameter
after parameter in sorted name order, so that every transformers version that knows the architecture (4.49 and 5.x are
checked) gives the same logits.

How the weights are made:

* Channel 0 of the residual stream is a constant: each embedding row writes ``BIAS_CHANNEL`` there and no block does.
  The output head reads it as a bias, which architectures without a head bias would not have otherwise.
* ``EOS`` is raised a little through that bias, so that many decodes end before 40 tokens; ``PAD`` is made all but
  impossible (only when the vocabulary has 16 tokens or more; the smaller ones are for counting outcomes).
* ``sharpness`` is about the standard deviation of the logits.
"""

from __future__ import annotations

import numpy as np
import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

from tests.scale import scaled

PAD, BOS, EOS = 0, 1, 2
ARCHS = ("llama", "qwen2", "qwen3", "gpt2", "opt")  # qwen3 needs transformers >= 4.51
HIDDEN, HEADS, MAX_POSITIONS = 64, 4, 512
LAYERS = scaled(1, 2)  # in `make test`, a test that looks between layers asks for two

EOS_BIAS = {"llama": 1.0, "qwen2": 1.0, "qwen3": 2.0, "gpt2": 2.0, "opt": 1.0}  # 50 to 80 % of greedy decodes end
PAD_BIAS = -12.0
BIAS_CHANNEL = 1.0  # what embedding rows write into channel 0
RMS_BIAS_WEIGHT = 24.0  # final RMSNorm weight of channel 0, which makes the head see about 1 there
POSITION_GAIN, QK_NORM_GAIN, INPUT_GAIN, ATTENTION_GAIN = 0.5, 2.5, 2.0, 1.5
MLP_GAIN = 8.0  # large: tied models whose blocks are weak repeat the last token for ever

EMBEDDINGS = ("embed_tokens.weight", "wte.weight")
POSITIONS = ("embed_positions.weight", "wpe.weight")
FINAL_LAYER_NORMS = ("transformer.ln_f", "decoder.final_layer_norm")
ATTENTION_OUTPUTS = ("o_proj.weight", "out_proj.weight", "attn.c_proj.weight")
MLP_OUTPUTS = ("down_proj.weight", "fc2.weight", "mlp.c_proj.weight")


def _config(arch: str, vocab: int, layers: int) -> PretrainedConfig:
    ids = {"vocab_size": vocab, "pad_token_id": PAD, "bos_token_id": BOS, "eos_token_id": EOS}
    ids["attn_implementation"] = "eager"
    rope = {
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS // 2,
        "max_position_embeddings": MAX_POSITIONS,
    }
    if arch == "llama":
        return transformers.LlamaConfig(**rope, tie_word_embeddings=False, **ids)
    if arch == "qwen2":
        return transformers.Qwen2Config(**rope, tie_word_embeddings=True, **ids)
    if arch == "qwen3":
        return transformers.Qwen3Config(**rope, head_dim=HIDDEN // HEADS, tie_word_embeddings=False, **ids)
    if arch == "gpt2":
        return transformers.GPT2Config(n_embd=HIDDEN, n_layer=layers, n_head=HEADS, n_positions=MAX_POSITIONS, **ids)
    if arch == "opt":
        return transformers.OPTConfig(
            hidden_size=HIDDEN,
            word_embed_proj_dim=HIDDEN,
            ffn_dim=2 * HIDDEN,
            num_hidden_layers=layers,
            num_attention_heads=HEADS,
            max_position_embeddings=MAX_POSITIONS,
            **ids,
        )
    raise ValueError(f"unknown architecture {arch!r}, expected one of {ARCHS}")


def _class(arch: str) -> type[PreTrainedModel]:
    names = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3", "opt": "OPT"}
    return getattr(transformers, "GPT2LMHeadModel" if arch == "gpt2" else f"{names[arch]}ForCausalLM")


def _vector(noise: np.ndarray, name: str) -> np.ndarray:
    """A norm weight near 1 or a small bias; the final norm hands channel 0 on as a constant."""
    weights = 1.0 + 0.1 * noise if name.endswith("weight") else 0.05 * noise
    owner, _, kind = name.rpartition(".")
    if owner.endswith(("q_norm", "k_norm")):
        weights *= QK_NORM_GAIN
    elif owner == "model.norm":
        weights[0] = RMS_BIAS_WEIGHT
    elif owner.endswith(FINAL_LAYER_NORMS):
        weights[0] = 1.0 if kind == "bias" else 0.0
    return weights


def _matrix(noise: np.ndarray, name: str, transposed: bool, sharpness: float) -> np.ndarray:
    """A weight matrix; ``transposed`` ones keep (inputs, outputs)."""
    if name.endswith((*EMBEDDINGS, "lm_head.weight")):
        return sharpness / HIDDEN**0.5 * noise
    if name.endswith(POSITIONS):
        noise[:, 0] = 0.0
        return POSITION_GAIN * noise
    inputs = 0 if transposed else 1
    gain = 1.0 / noise.shape[inputs] ** 0.5
    if not name.endswith((*ATTENTION_OUTPUTS, *MLP_OUTPUTS)):
        return INPUT_GAIN * gain * noise
    noise -= noise.mean(axis=inputs, keepdims=True)  # else one direction, and so a few tokens, would dominate
    noise[(slice(None), 0) if transposed else 0] = 0.0
    return (MLP_GAIN if name.endswith(MLP_OUTPUTS) else ATTENTION_GAIN) * gain * noise


def _set_head(head: np.ndarray, base: float, eos_bias: float) -> None:
    """Use channel 0 as the bias of the output head; ``base`` is common to all tokens and changes nothing."""
    head[:, 0] = base
    head[EOS, 0] += eos_bias
    if len(head) >= 16:
        head[PAD] = 0.0
        head[PAD, 0] = base + PAD_BIAS


@torch.inference_mode(False)  # the first test to ask may be in inference mode
def tiny_model(arch: str, *, vocab: int = 97, seed: int = 0, sharpness: float = 2.5,
               layers: int | None = None) -> PreTrainedModel:
    """A tiny fp32 model in eval mode with the same weights under every transformers version."""
    model = _class(arch)(_config(arch, vocab, layers or LAYERS)).to(torch.float32).eval()
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    rng = np.random.Generator(np.random.PCG64(seed))
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = rng.standard_normal(tuple(parameter.shape))
            weights = _vector(noise, name) if noise.ndim == 1 else _matrix(noise, name, arch == "gpt2", sharpness)
            if name.endswith("lm_head.weight"):
                _set_head(weights, 0.0, EOS_BIAS[arch])
            elif name.endswith(EMBEDDINGS) and tied:
                _set_head(weights, BIAS_CHANNEL, EOS_BIAS[arch])
            elif name.endswith(EMBEDDINGS):
                weights[:, 0] = BIAS_CHANNEL
            parameter.copy_(torch.from_numpy(weights.astype(np.float32)))
    model.generation_config.pad_token_id = PAD
    model.generation_config.bos_token_id = BOS
    model.generation_config.eos_token_id = EOS
    return model


def prompts(n: int, vocab: int = 97, seed: int = 0) -> list[list[int]]:
    """``n`` prompts of 3 to 12 tokens without special ids."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return [rng.integers(EOS + 1, vocab, size=int(rng.integers(3, 13))).tolist() for _ in range(n)]
