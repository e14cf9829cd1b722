"""The tokenizer of a model: loading it, checking it against the model, and its identity."""

import hashlib
import json
from typing import Any

from harness import nano
from harness.errors import UserError, first_sentence
from harness.models.source import Source


def load_tokenizer(name: str, source: Source) -> Any:
    """Load the tokenizer of the model `name`; raises `UserError` if there is none."""
    from transformers import AutoTokenizer

    try:
        place = nano.weights(nano.NANO) if source.packed else source.place
        return AutoTokenizer.from_pretrained(place, **source.options)
    except Exception as error:  # the library raises many kinds of errors for a folder without a tokenizer
        raise UserError(f"'{name}' has no tokenizer that can be loaded ({first_sentence(error)}); "
                        "save one beside the model, or name one with --tokenizer.") from error


def check_vocabulary(name: str, model: Any, tokenizer: Any) -> None:
    """Raise `UserError` if text may get a token id that has no row in the embedding; special tokens may have none."""
    rows = int(model.get_input_embeddings().weight.shape[0])
    if len(tokenizer) <= rows:
        return
    special = special_ids(tokenizer)
    if beyond := sum(token >= rows and token not in special for token in tokenizer.get_vocab().values()):
        raise UserError(f"The tokenizer has {beyond} token ids that '{name}' lacks, which has {rows} embeddings; give "
                        "the tokenizer of the model with --tokenizer.")


def special_ids(tokenizer: Any) -> set[int]:
    """Return the ids of all special tokens, which stand for no text."""
    return {*tokenizer.all_special_ids, *(id for id, one in tokenizer.added_tokens_decoder.items() if one.special)}


def eos_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Return the ids of all tokens that end an answer: those of the generation configuration and the tokenizer's."""
    ids: set[int] = set()
    for source in (model.generation_config.eos_token_id, tokenizer.eos_token_id):
        ids |= set(source) if isinstance(source, list | tuple) else {source} if source is not None else set()
    return frozenset(token for token in ids if token < model.config.get_text_config().vocab_size)


def text_identity(tokenizer: Any, eos: frozenset[int]) -> str:
    """Return a short hash of all that turns text into tokens and back: the tokenizer, its chat template, EOS."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    whole = backend.to_str() if backend else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    rest = [tokenizer.special_tokens_map, getattr(tokenizer, "chat_template", None), sorted(eos)]
    text = whole + json.dumps(rest, sort_keys=True, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
