"""Tokenizers of other vocabularies than the target's, and models whose tokens have other numbers."""

import json
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from harness.engine.engine import Engine
from harness.models.translation import Translation
from tests.models import MAX_POSITIONS, tiny_model

TEXT = ("A small cat sat on the mat and looked at the café. The other cats, smaller still, were sitting there too; "
        "the smallest one ate what the others had left: 12 grams of fish, 3.5 of naïve mice. ") * 3


def byte_level(size: int = 330) -> PreTrainedTokenizerFast:
    """Train a byte-level vocabulary, which writes a blank as Ġ, on a short text."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.train_from_iterator([TEXT], trainers.BpeTrainer(
        vocab_size=size, special_tokens=["<pad>", "<s>", "</s>"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def with_blanks(size: int = 380) -> PreTrainedTokenizerFast:
    """Train a vocabulary that writes a blank as ▁, falls back to bytes and begins every text with its BOS."""
    first = ["<unk>", "<|begin|>", "<|end|>", *(f"<0x{byte:02X}>" for byte in range(256))]
    raw = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                     decoders.Strip(" ", 1, 0)])
    raw.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=size, special_tokens=first, show_progress=False))
    raw.post_processor = processors.TemplateProcessing(single="<|begin|> $A", special_tokens=[("<|begin|>", 1)])
    state = json.loads(raw.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if not token["content"].startswith("<0x")]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)),
                                   unk_token="<unk>", bos_token="<|begin|>", eos_token="<|end|>")


def letters(text: str) -> PreTrainedTokenizerFast:
    """Create a tokenizer with a token for each letter, in this order, and no special token."""
    raw = Tokenizer(models.BPE({letter: i for i, letter in enumerate(text)}, []))
    raw.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=raw)


def renumbered(tokenizer: Any, order: Sequence[int]) -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token a byte whose token i has the number `order[i]`."""
    raw = Tokenizer(models.BPE({token: order[number] for token, number in tokenizer.get_vocab().items()}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def with_numbers(model: Any, order: Sequence[int]) -> Engine:
    """Return the same model with the number `order[i]` for its token i."""
    other, place = deepcopy(model), torch.tensor(order)
    with torch.no_grad():
        for weight, old in ((other.get_input_embeddings().weight, model.get_input_embeddings().weight),
                            (other.get_output_embeddings().weight, model.get_output_embeddings().weight)):
            weight[place] = old.clone()
    return Engine(other, MAX_POSITIONS)


def model_of(tokenizer: Any, seed: int = 0, padding: int = 0) -> Engine:
    """Return a tiny model for a tokenizer, with more logits than it has tokens if `padding`."""
    return Engine(tiny_model("llama", vocab=len(tokenizer) + padding, seed=seed), MAX_POSITIONS)


def translated(target: Engine, draft: Engine, own: Any, other: Any) -> Engine:
    """Return the engine of a draft model, with the translation between the tokenizers of target and draft."""
    draft.translation = Translation(own, other, (target.vocab, draft.vocab), target.device)
    return draft
