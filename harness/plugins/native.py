"""Options of an inference engine, such as vLLM, that make it decode like a strategy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.plugins.strategy import Strategy


@dataclass(frozen=True)
class NativeCall:
    """The options with which an engine decodes like a strategy.

    `sampling` is sent with each request, `speculative` configures the engine's speculative decoding, and `beam` holds
    the knobs of a beam search. If `warps` is true, the strategy's own logit warps must run inside the engine.
    """

    sampling: Mapping[str, Any] = field(default_factory=dict)
    speculative: Mapping[str, Any] | None = None
    warps: bool = False
    beam: Mapping[str, Any] | None = None


NativeOptions = Callable[["Strategy"], NativeCall | None]
"""Maps a strategy to an engine's options, or to None without an equivalent; raises `Unsupported` for some knobs."""
