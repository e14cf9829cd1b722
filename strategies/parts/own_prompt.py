"""Strategies that give another one a prompt of their own."""

from harness.engine.logit_warps import identity
from harness.engine.session import Session
from harness.errors import Unsupported


def check_last(session: Session, name: str) -> None:
    """Raise `Unsupported` under a strategy that warps the logits of sequences after the prompt as it was."""
    if session.logit_warp is not identity:
        raise Unsupported(f"replaces the prompt, so it must come last: write OTHER+…+{name}")
