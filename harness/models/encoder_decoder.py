"""Encoder-decoder models: their class, what their configuration says of every answer, and their check."""

from functools import partial
from typing import Any

import torch

from harness.engine.engine import Engine
from harness.engine.forced import Forced
from harness.engine.images import ImageEngine
from harness.engine.session import Session
from harness.engine.source import SourceEngine
from harness.engine.tree import TokenTree
from harness.errors import Unsupported, UserError
from harness.models.images import reads_images
from harness.models.recurrent import carries_state, make_state_engine


def has_encoder(config: Any) -> bool:
    """Return whether a configuration is that of an encoder-decoder model."""
    return bool(getattr(config, "is_encoder_decoder", False))


def auto_class(config: Any) -> Any:
    """Return the class of transformers that loads a model of this configuration."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoModelForSeq2SeqLM

    if reads_images(config):
        return AutoModelForImageTextToText
    return AutoModelForSeq2SeqLM if has_encoder(config) else AutoModelForCausalLM


def refuse_encoder(name: str, config: Any, instead: str = "give a decoder-only one") -> None:
    """Raise `UserError` for an encoder-decoder model, where only others can run; `instead` is what the user can do."""
    if has_encoder(config):
        raise UserError(f"{name} is an encoder-decoder model ({config.model_type}); {instead}.")


def make_engine(model: Any, max_len: int) -> Engine:
    """Return the engine for a model of any kind; raises `UserError` for one that cannot be used."""
    if not has_encoder(model.config):
        if carries_state(model):
            return make_state_engine(model, max_len)
        return (ImageEngine if reads_images(model.config) else Engine)(model, max_len)
    try:
        return SourceEngine(model, max_len, (_start(model),), _forced(model))
    except Unsupported as error:
        raise UserError(f"{type(model).__name__} is an encoder-decoder model that decodebench {error}; give one of the "
                        "T5, BART, Marian or Pegasus families.") from error


def _start(model: Any) -> int:
    """Return the token with which the decoder of a model begins; raises `UserError` if its configuration has none."""
    known = model.generation_config
    named = (known.decoder_start_token_id, getattr(model.config, "decoder_start_token_id", None), known.bos_token_id)
    start = next((token for token in named if token is not None), None)
    if start is None:
        raise UserError(f"The configuration of {type(model).__name__} has no decoder_start_token_id, without which no "
                        "answer can begin; add it to its generation_config.json.")
    return int(start)


def _forced(model: Any) -> Forced:
    """Return the tokens that the generation configuration of a model forces."""
    return Forced(*(None if token is None else int((token if isinstance(token, list) else [token])[0]) for token in (
        model.generation_config.forced_bos_token_id, model.generation_config.forced_eos_token_id)))


def tree_and_plain(engine: Engine) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits (8, V) of two trees below two sources, and those of plain forwards.

    The sources have different lengths, and their decoders read the trees in one batch of two rows.
    """
    size = engine.vocab
    sources = [[token % size for token in tokens] for tokens in ((5, 11, 3), (7, 2, 9, 13, 4, 8, 6))]
    tree, prefix = TokenTree(tuple(token % size for token in (2, 9, 4)), (-1, 0, -1)), [*engine.prefix, 3]
    sessions = [Session(engine) for _ in sources]
    for session, source in zip(sessions, sources, strict=True):
        session.begin(source)
        session.follow(prefix)
    rows = sessions[0].run_batched([partial(_read, session, tree) for session in sessions])
    for session in sessions[::-1]:
        session.close()
    paths = [[], [tree.tokens[0]], list(tree.tokens[:2]), [tree.tokens[2]]]
    return torch.cat(rows), torch.stack([_plain(engine, source, prefix + path) for source in sources for path in paths])


def _read(session: Session, tree: TokenTree) -> torch.Tensor:
    return session.read(tree).logits


@torch.inference_mode()
def _plain(engine: Engine, source: list[int], tokens: list[int]) -> torch.Tensor:
    """Return the logits (V,) after `tokens` from one forward without cache."""
    logits: torch.Tensor = engine.model(input_ids=torch.tensor([source], device=engine.device), use_cache=False,
                                        decoder_input_ids=torch.tensor([tokens], device=engine.device)).logits
    return logits[0, -1].float()
