"""Strategies that let a cache policy govern the KV cache of another strategy."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from harness.engine.cache_policy import CachePolicy
from harness.engine.session import Session
from harness.plugins.plugin import per_instance
from harness.plugins.strategy import Need, Over, Request


@dataclass(frozen=True)
class GovernedCache(Over):
    """Decodes as the wrapped strategy does, with the keys and values that a policy keeps; drafts keep all of theirs."""

    family: ClassVar[str] = "cache"
    needs: ClassVar[frozenset[Need]] = frozenset({"prompt", "attention"})
    scores_given: ClassVar[bool] = per_instance(False, lambda self: self.over.scores_given)

    @abstractmethod
    def policy(self) -> CachePolicy:
        """Return the policy."""

    def generate(self, session: Session, request: Request) -> Iterator[Sequence[int]]:
        """Yield what the wrapped strategy yields."""
        with session.with_cache_policy(self.policy()):
            yield from self.over.generate(session, request)
