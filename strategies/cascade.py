"""Cascade: several ways to draft for one sequence, in the order of `members`.

As llama.cpp combines them (docs/speculative.md; server option `--spec-type draft-mtp,ngram-mod`). `members` are
strategies that draft, separated by ">", their knobs after ":" and separated by ";", such as
"ngram_pool:n=3;n_min=1>speculative:gamma=6". `mode` "first" asks them in turn until one has a draft of at least `least`
tokens; this is what llama.cpp does, with a fixed order in which drafts without a model come first. "best" asks all and
verifies the draft with the highest product of its length and the share of this member's drafts that was accepted so
far. "extend" lets each next member continue below the end of the longest path drafted so far. The last two were
proposed for llama.cpp (pull requests 22546 and 23184); which share and which start they use is this project's choice.

`temperature` and `p` replace those of the members and set the distribution, which is exact: what a member sampled is
accepted by its own rule, and neither `least` nor "best" looks at the length of a sampled draft, which may depend on the
sampled tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from harness.decoding.accept import at, delta, rejection, rejection_without_replacement
from harness.decoding.loop import draft_and_verify
from harness.decoding.verified import Lossy, Verified
from harness.engine.session import Session
from harness.errors import UserError
from harness.plugins.plugin import per_instance
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Need, Request, knob
from strategies.drafters.cascaded import Cascaded, Extending, Member


@dataclass(frozen=True)
class Cascade(Verified):
    """With one member it is that member; lossless at temperature 0, above it the distribution is that of `top_p`."""

    members: str = knob("prompt_lookup>speculative", "strategies that draft, the first one first",
                        sweep=("prompt_lookup>speculative", "speculative>prompt_lookup"))
    mode: str = knob("first", "how the members' drafts are combined", choices=("first", "best", "extend"),
                     sweep=("first", "best", "extend"))
    least: int = knob(1, "for mode first: shortest draft that counts, in tokens", low=1, high=1024, sweep=(1, 2, 4))

    paper: ClassVar[str] = "llama.cpp, github.com/ggml-org/llama.cpp (docs/speculative.md)"
    needs: ClassVar[frozenset[Need]] = per_instance(frozenset({"draft"}), lambda self: frozenset[Need]().union(
        *(member.needs for member in self.built())))
    stateful: ClassVar[bool] = per_instance(False, lambda self: any(member.stateful for member in self.built()))
    head_kind: ClassVar[str] = per_instance("", lambda self: max(member.head_kind for member in self.built()))
    translates: ClassVar[bool] = per_instance(False, lambda self: all(
        member.translates for member in self.built() if "draft" in member.needs))

    def __post_init__(self) -> None:
        """Refuse members that do not draft, or that cannot be combined."""
        super().__post_init__()
        members = self.built()
        if sum("draft" in member.needs for member in members) > 1:
            raise UserError("cascade: only one member can use the draft model; remove the others.")
        if sum(bool(member.head_kind) for member in members) > 1:
            raise UserError("cascade: only one member can have a trained head; remove the others.")
        sampling = {member.rule() for member in members} - {delta}
        if self.mode == "extend" and len(members) > 1 and not (
                sampling <= {rejection} or sampling <= {rejection_without_replacement}):
            raise UserError("cascade: mode=extend needs drafts that are verified by the same rule, one by one; "
                            "choose mode=first or mode=best.")

    def built(self) -> list[Verified]:
        """Return the members with this temperature and nucleus; raises `UserError` for what cannot be one."""
        members = list[Verified]()
        for text in self.members.split(">"):
            member = STRATEGIES.build(text.strip().replace(";", ","))
            if (not isinstance(member, Verified) or isinstance(member, Lossy)
                    or type(member).generate is not Verified.generate):
                raise UserError(f"cascade: '{text}' cannot be a member, because it is no method that drafts and then "
                                "verifies exactly.")
            members.append(replace(member, temperature=self.temperature, p=self.p))
        return members

    def files(self) -> dict[str, Path]:
        """Return the files of the members, whose keys start with the members' places."""
        return {f"members.{place}.{key}": path for place, member in enumerate(self.built())
                for key, path in member.files().items()}

    def drafter(self, session: Session, request: Request) -> Cascaded:
        """The members' drafters; raises `UserError` for one that cannot draft below drafts and must."""
        strategies = self.built()
        members = [Member(strategy.drafter(session, request), strategy.rule()) for strategy in strategies]
        for strategy, member in zip(strategies[1:], members[1:], strict=True):
            if self.mode == "extend" and not isinstance(member.drafter, Extending):
                raise UserError(f"cascade: {strategy.name} cannot draft below the drafts of others; put it first, or "
                                "choose mode=first or mode=best.")
        return Cascaded(session, members, self.mode, self.least)

    def generate(self, session: Session, request: Request) -> Iterator[list[int]]:
        """Yield the accepted drafts and one more token at each step."""
        drafter = self.drafter(session, request)
        return draft_and_verify(session, drafter, at(self.temperature, drafter.rule), request, self.logit_warp())
