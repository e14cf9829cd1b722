"""How another engine is asked for a strategy: options that a strategy combines and a backend understands."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.plugins.strategy import Strategy


@dataclass(frozen=True)
class NativeCall:
    """`speculative` configures the engine's speculative decoding, `sampling` is sent with each request.

    `warps` says that the strategy's own logit warps must run inside the engine; `beam` holds the knobs of a search.
    """

    sampling: Mapping[str, Any] = field(default_factory=dict)
    speculative: Mapping[str, Any] | None = None
    warps: bool = False
    beam: Mapping[str, Any] | None = None


NativeOptions = Callable[["Strategy"], NativeCall | None]
"""What an engine has under the name of a strategy, None where it has nothing; raises `Unsupported` for its knobs."""
