"""A language in which the next token follows from the last one, a model of it, and answers in it."""

import random
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from harness.engine.engine import Engine
from harness.heads.network import Network
from harness.laboratory import corpus
from harness.laboratory.corpus import Answer, Corpus
from harness.models.loading import Model

VOCAB, SIZE, LENGTH = 50, 64, 24
NEXT = random.Random(0).sample(range(VOCAB), VOCAB)


def model() -> Engine:
    """A model that always continues token x by NEXT[x]: its blocks add nothing."""
    config = LlamaConfig(vocab_size=VOCAB, hidden_size=SIZE, intermediate_size=SIZE, num_hidden_layers=2,
                         num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512,
                         tie_word_embeddings=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = LlamaForCausalLM(config).eval()
        words = torch.nn.functional.normalize(torch.randn(VOCAB, SIZE), dim=-1)
    with torch.no_grad():
        for layer in found.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        found.model.embed_tokens.weight.copy_(words)
        found.lm_head.weight[torch.tensor(NEXT)] = words * 3
    return Engine(found, 512)


def walk(start: int, length: int) -> list[int]:
    """The tokens from `start` on."""
    found = [start]
    while len(found) < length:
        found.append(NEXT[found[-1]])
    return found


def write(folder: Path) -> None:
    """Write the walks from each token as answers."""
    walks = (walk(start, LENGTH) for start in range(VOCAB))
    corpus.write(folder, (Answer(tokens[:2], tokens[2:]) for tokens in walks), 10**9)


def read(folder: Path, network: Network) -> Corpus:
    """The walks with the states that a network reads."""
    corpus.record(folder, Model("", model(), None, frozenset(), ""), dict.fromkeys(["hidden", *network.reads]))
    return corpus.read(folder, network.reads)
