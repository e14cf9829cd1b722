"""Compares two servers' greedy answers to one prompt, token by token, with the log-probs that the servers return."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from harness.backends.openai_stream import Reply
from harness.backends.openai_watched import units
from harness.store.completion import TokenLogprob, stop_of

Cause = Literal["tie", "wrong token", "end ignored", "end missing", "unknown"]
SAID: Mapping[Cause, str] = {
    "tie": "a tie that rounding decides",
    "wrong token": "a wrong token",
    "end ignored": "a stop token was dropped: the answer ends here, and goes on while the server drafts",
    "end missing": "a stop token was dropped: the answer's last token is missing while the server drafts",
    "unknown": "the servers return no log-probs, so a tie is not told from an error",
}
FAULTS: tuple[Cause, ...] = ("end ignored", "end missing", "wrong token")


class Gap(NamedTuple):
    """Log-probs at a place of an answer: `margin` of the likeliest token over the second, and `off` of the token there.

    `off` is how far the drafting server's token is below the likeliest, at least; None if there is no token.
    """

    margin: float
    off: float | None


@dataclass(frozen=True)
class Parting:
    """The first unit (token or character) at index `at` in which two answers differ, with its cause."""

    at: int
    cause: Cause
    gap: Gap | None

    def said(self) -> str:
        """Describe it in a sentence."""
        if self.gap is None:
            return SAID[self.cause]
        off = "" if self.gap.off is None else f", and its token is {self.gap.off:.3g} below the likeliest"
        return f"{SAID[self.cause]} (log-probs of best and second {self.gap.margin:.3g} apart{off})"


def parting(plain: Reply, drafting: Reply, ends: frozenset[int], tie: float) -> Parting | None:
    """Return where the answer of a server that drafts leaves that of one that does not; None if they are equal.

    `ends` are the EOS ids. Log-probs at most `tie` apart are a tie.
    """
    a, b = units((plain, drafting))
    at = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
    if a == b or _stopped_alike(plain, drafting, at == len(a)):
        return None
    gap, end = _gap(plain, drafting, a, b, at), {f"token_id:{token}" for token in ends}
    told = plain.has_ids and drafting.has_ids
    close = gap is not None and (gap.margin if gap.off is None else gap.off) <= tie
    cause: Cause
    if told and at == len(a):
        cause = "end ignored"
    elif told and at == len(b) == len(a) - 1 and a[at] in end:
        cause = "end missing"
    elif gap is None:
        cause = "unknown"
    elif close:
        cause = "tie"
    else:
        cause = "end ignored" if at == len(a) or a[at] in end else "wrong token"
    return Parting(at, cause, gap)


def _stopped_alike(plain: Reply, drafting: Reply, begins: bool) -> bool:
    """Return whether both ended at a stop string: tokens of a draft may follow it, which are not part of the text."""
    if not begins or plain.last is None or drafting.last is None:
        return False
    return stop_of(plain.last) == stop_of(drafting.last) == "stop"


def _gap(plain: Reply, drafting: Reply, a: Sequence[str], b: Sequence[str], at: int) -> Gap | None:
    """Return the gap at the unit `at`, by the log-probs of the plain server, or of the other where that one has ended.
    """
    for reply, own in ((plain, a), (drafting, b)):
        if at < len(reply.logprobs) == len(own):
            best, *others = sorted(reply.logprobs[at].top.values(), reverse=True)
            if not others:
                return None
            off = None
            if at < len(b) and at < len(a):
                off = best - reply.logprobs[at].top.get(b[at], others[-1])
            return Gap(best - others[0], off)
    return None


def below_the_likeliest(reply: Reply) -> Iterator[float]:
    """Yield how far each token's log-prob is below that of the likeliest."""
    for one in reply.logprobs:
        if one.top:
            yield max(one.top.values()) - one.logprob


def shifts(plain: Reply, drafting: Reply) -> Iterator[float]:
    """Yield the difference of the log-probs of each token that both answers share at their start."""
    for one, other in zip(plain.logprobs, drafting.logprobs, strict=False):
        if one.token != other.token:
            return
        yield abs(one.logprob - other.logprob)


def uncertainty(logprobs: Sequence[TokenLogprob]) -> float:
    """Return minus the mean log-prob of the tokens, which is high where sampled tokens would vary; 0 without any."""
    return -sum(one.logprob for one in logprobs) / len(logprobs) if logprobs else 0.0
