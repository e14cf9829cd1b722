"""Every class of decoder that transformers has: its answers are those of `generate`, in and beyond its window."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
import transformers

from harness.engine.engine import Engine
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.models.loading import check
from harness.models.products import use_fast_products
from strategies.beam import Beam
from strategies.greedy import Greedy
from strategies.prompt_lookup import PromptLookup
from tests.decode import decode

VOCAB, LONGEST, WINDOW, NEW = 61, 128, 12, 24
SIZES: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": LONGEST, "initializer_range": 0.3, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2}
GROUPED = {**SIZES, "num_key_value_heads": 2}
BOTH = {"sliding_window": WINDOW, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
GPT = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.3, "pad_token_id": 0,
       "bos_token_id": 1, "eos_token_id": 2}
CONFIGS: dict[str, Callable[[], Any]] = {
    "Llama": lambda: transformers.LlamaConfig(**GROUPED),
    "Qwen2": lambda: transformers.Qwen2Config(**GROUPED),
    "Qwen2, some layers slide": lambda: transformers.Qwen2Config(
        **GROUPED, use_sliding_window=True, sliding_window=WINDOW, max_window_layers=1),
    "Qwen3": lambda: transformers.Qwen3Config(**GROUPED, head_dim=8),
    "Gemma": lambda: transformers.GemmaConfig(**GROUPED, head_dim=8),
    "Gemma2": lambda: transformers.Gemma2Config(**GROUPED, head_dim=8, **BOTH),
    "Gemma3": lambda: transformers.Gemma3TextConfig(**GROUPED, head_dim=8, **BOTH),
    "Phi": lambda: transformers.PhiConfig(**SIZES),
    "Phi3": lambda: transformers.Phi3Config(**GROUPED),
    "Phi3, all layers slide": lambda: transformers.Phi3Config(**GROUPED, sliding_window=WINDOW),
    "Mistral": lambda: transformers.MistralConfig(**GROUPED, sliding_window=WINDOW),
    "Mixtral": lambda: transformers.MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2),
    "Starcoder2": lambda: transformers.Starcoder2Config(**GROUPED, sliding_window=WINDOW),
    "GPT2": lambda: transformers.GPT2Config(**GPT, n_positions=LONGEST),
    "GPTNeoX": lambda: transformers.GPTNeoXConfig(**SIZES),
    "OPT": lambda: transformers.OPTConfig(
        vocab_size=VOCAB, hidden_size=32, word_embed_proj_dim=32, ffn_dim=48, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=LONGEST, init_std=0.3, pad_token_id=0, eos_token_id=2),
    "Olmo": lambda: transformers.OlmoConfig(**GROUPED),
    "Olmo2": lambda: transformers.Olmo2Config(**GROUPED),
    "Olmo3": lambda: transformers.Olmo3Config(**GROUPED, **BOTH),
    "Falcon": lambda: transformers.FalconConfig(
        vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.3,
        max_position_embeddings=LONGEST, bos_token_id=1, eos_token_id=2),
    "StableLm": lambda: transformers.StableLmConfig(**GROUPED),
    "Granite": lambda: transformers.GraniteConfig(**GROUPED),
    "Cohere2": lambda: transformers.Cohere2Config(**GROUPED, **BOTH),
    "SmolLM3": lambda: transformers.SmolLM3Config(**GROUPED, no_rope_layers=[1, 0]),
    "Qwen3Moe": lambda: transformers.Qwen3MoeConfig(**GROUPED, head_dim=8, **EXPERTS),
    "Olmoe": lambda: transformers.OlmoeConfig(**GROUPED, num_experts=4, num_experts_per_tok=2),
    "GptOss": lambda: transformers.GptOssConfig(
        **GROUPED, head_dim=8, num_local_experts=4, num_experts_per_tok=2, **BOTH),
}
WINDOWED = ["Qwen2, some layers slide", "Gemma2", "Gemma3", "Phi3, all layers slide", "Mistral", "Starcoder2", "Olmo3",
            "Cohere2", "GptOss"]
PROMPTS = [list(range(5, 12)), [5 + 7 * i % 50 for i in range(40)]]


@cache
def model(name: str) -> Any:
    torch.manual_seed(0)
    made = transformers.AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation="eager").eval()
    made.generation_config.eos_token_id, made.generation_config.pad_token_id = 2, 0
    return made


@cache
def engine(name: str) -> Engine:
    torch.manual_seed(0)
    ours = transformers.AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation="eager").eval()
    use_fast_products(ours)
    return Engine(ours, LONGEST)


def generated(name: str, prompt: list[int], **options: Any) -> list[int]:
    ids = torch.tensor([prompt])
    out = model(name).generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW, do_sample=False, **options)
    tokens: list[int] = out[0, len(prompt):].tolist()
    return tokens


@pytest.mark.parametrize("prompt", PROMPTS, ids=len)
@pytest.mark.parametrize("name", CONFIGS)
def test_the_answers_are_those_of_generate(name: str, prompt: list[int]) -> None:
    greedy = generated(name, prompt)
    assert decode(Greedy(), engine(name), prompt, new=NEW) == greedy
    assert decode(PromptLookup(), engine(name), prompt, new=NEW) == greedy
    beams = generated(name, prompt, num_beams=3, length_penalty=0.0, early_stopping=True)
    ours = decode(Beam(width=3, length_penalty=0.0, early_stopping="true"), engine(name), prompt, new=NEW)
    assert ours == beams[:len(ours)]


@pytest.mark.parametrize("name", CONFIGS)
def test_trees_are_read_as_plain_sequences(name: str) -> None:
    """`check` makes windows smaller than its prompt; here the tree itself is longer than the window."""
    check(engine(name))
    session, prompt = Session(engine(name)), PROMPTS[1]
    session.follow(prompt)
    chain = [5 + 11 * i % 50 for i in range(WINDOW + 5)]
    tree = TokenTree((*chain, 7, 8), (*range(-1, len(chain) - 1), 2, len(chain)))  # a branch below the third token
    with torch.inference_mode():
        rows = session.read(tree).logits
        session.close()
        for tokens, row in ((prompt + chain, rows[len(chain)]), ([*prompt, *chain[:3], 7, 8], rows[-1])):
            plain = model(name)(input_ids=torch.tensor([tokens])).logits[0, -1]
            torch.testing.assert_close(row, plain, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", WINDOWED)
def test_a_rollback_beyond_the_window_is_a_fresh_read(name: str) -> None:
    target = engine(name)
    assert target.windows.size == WINDOW
    session, prompt = Session(target), PROMPTS[1]
    with torch.inference_mode():
        for length in (40, 15, 33, 4):  # the window of the shorter sequence had moved out of that of the longer one
            session.follow([*prompt[:length], 9])
            row = session.read().logits[0]
            plain = model(name)(input_ids=torch.tensor([[*prompt[:length], 9]])).logits[0, -1]
            torch.testing.assert_close(row, plain, atol=2e-4, rtol=1e-3)
    session.close()


@pytest.mark.parametrize("name", WINDOWED)
def test_the_window_matters(name: str) -> None:
    """Without it, the logits after a longer prompt are others."""
    target, rows = engine(name), list[Any]()
    for size in (WINDOW, LONGEST):
        with target.windows.of_size(size), torch.inference_mode():
            session = Session(target)
            session.follow(PROMPTS[1])
            rows.append(session.read().logits[0])
            session.close()
    assert (rows[0] - rows[1]).abs().max() > 0.01
