"""Models that carry a state: which of them can be used."""

from typing import Any

from harness.engine.mixers import RECURRENT, find_mixers
from harness.engine.state import StateEngine
from harness.errors import Unsupported, UserError


def carries_state(model: Any) -> bool:
    """Return whether a model carries a state from token to token."""
    kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
    return bool(kinds & RECURRENT or getattr(model, "_is_stateful", False) or find_mixers(model))


def refuse_state(name: str, model: Any, instead: str) -> None:
    """Raise `UserError` for a model that carries a state, where only others can run; `instead` is what one can do."""
    if carries_state(model):
        raise UserError(f"{name} carries a state from token to token ({type(model).__name__}); {instead}.")


def make_state_engine(model: Any, max_len: int) -> StateEngine:
    """Return the engine for such a model; raises `UserError` if it is of an unknown kind."""
    try:
        return StateEngine(model, max_len)
    except Unsupported as error:
        raise UserError(f"{type(model).__name__} carries a state, and decodebench {error}; give a model of the Mamba, "
                        "RWKV-4, Granite 4, Bamba, Falcon H1, Zamba 2, Nemotron H, Qwen3-Next or LFM2 families."
                        ) from error
