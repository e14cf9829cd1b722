"""The fields of a completion from an OpenAI-compatible server, with those that vLLM and SGLang add."""

from contextlib import suppress
from typing import Any, NamedTuple

from pydantic import AliasChoices, Field, ValidationError

from harness.store.foreign import Count, Row, Seconds, equally_long
from harness.store.schema import Stop
from harness.store.steps import expanded, spread


class Drafts(Row):
    """`metrics.speculative_decoding` of a response."""

    acceptance_histogram: list[Count]
    num_draft_tokens: Count
    per_step_accepted: list[Count] | None = None
    per_step_drafted: list[Count] | None = None

    def by_step(self, where: str) -> tuple[list[int], list[int]]:
        """Return the accepted and drafted tokens of each step; raises `UserError` when the lists differ in length."""
        if self.per_step_accepted is None:
            accepted = expanded(self.acceptance_histogram)
            return accepted, spread(self.num_draft_tokens, len(accepted))
        drafted = self.per_step_drafted or []
        equally_long({"per_step_accepted": self.per_step_accepted, "per_step_drafted": drafted}, where)
        return self.per_step_accepted, drafted


class Verified(Row):
    """SGLang's counts of drafts for one request; those of drafted and accepted tokens were renamed in 2026."""

    spec_verify_ct: Count = 0
    histogram: list[Count] | None = Field(None, validation_alias=AliasChoices("spec_correct_drafts_histogram",
                                                                              "spec_accept_histogram"))
    accepted: Count | None = Field(None, validation_alias=AliasChoices("spec_num_correct_drafts",
                                                                       "spec_accept_token_num"))
    drafted: Count | None = Field(None, validation_alias=AliasChoices("spec_num_proposed_drafts",
                                                                      "spec_draft_token_num"))

    def by_step(self, tokens: int) -> tuple[list[int], list[int]]:
        """Return the accepted and drafted tokens of each step of an answer of `tokens`.

        Without a histogram the accepted tokens are spread evenly over the steps.
        """
        if self.histogram is not None:
            accepted = expanded(self.histogram)
        else:
            total = max(0, tokens - 1 - self.spec_verify_ct) if self.accepted is None else self.accepted
            accepted = spread(total, self.spec_verify_ct)
        return accepted, spread(self.drafted, len(accepted)) if self.drafted and accepted else []


def verified_of(*values: Any) -> Verified | None:
    """Return the first of these values with counts of drafts in the form that is known, None if there is none."""
    for value in values:
        if isinstance(value, dict) and value.get("spec_verify_ct"):
            with suppress(ValidationError):
                return Verified.model_validate(value)
    return None


class Metrics(Row):
    """`metrics` of a response."""

    time_to_first_token_ms: Seconds | None = None
    generation_time_ms: Seconds | None = None
    speculative_decoding: Drafts | None = None


class Details(Row):
    """`prompt_tokens_details` of `usage`, from a server with `--enable-prompt-tokens-details`."""

    cached_tokens: Count | None = None


class Usage(Row):
    """`usage` of a response."""

    prompt_tokens: Count
    completion_tokens: Count
    prompt_tokens_details: Details | None = None


class Message(Row):
    """`message` of a chat's choice."""

    content: str | None = None


class Choice(Row):
    """One of the `choices` of a response."""

    index: int = 0
    text: str | None = None
    message: Message | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None
    matched_stop: Any = None
    token_ids: list[int] | None = None
    logprobs: Any = None
    meta_info: Any = None


class TokenLogprob(NamedTuple):
    """A token of an answer with its log-prob in nats, and those of the likeliest tokens at its place by name.

    A token is named by its text, or `token_id:7` if the server tells its id.
    """

    token: str
    logprob: float
    top: dict[str, float]


class Alternative(Row):
    """A token with its log-prob in a chat's `logprobs.content`; llama.cpp adds its id."""

    token: str
    logprob: float
    id: int | None = None

    @property
    def name(self) -> str:
        """The name of the token."""
        return self.token if self.id is None else f"token_id:{self.id}"


class Entry(Alternative):
    """An entry of `logprobs.content`."""

    top_logprobs: list[Alternative] = Field(default_factory=list)


class Logprobs(Row):
    """`logprobs` of a choice: parallel lists in completions, `content` in chats and in llama.cpp's completions."""

    tokens: list[str] = Field(default_factory=list)
    token_logprobs: list[float | None] = Field(default_factory=list)
    top_logprobs: list[dict[str, float] | None] | None = None
    content: list[Entry] | None = None


def logprobs_of(choice: Choice) -> list[TokenLogprob]:
    """Return the log-probs of a choice's tokens; empty if it has none, or has them in a form that is not known."""
    try:
        found = Logprobs.model_validate(choice.logprobs)
    except ValidationError:
        return []
    if found.content is not None:
        return [TokenLogprob(one.name, one.logprob, {other.name: other.logprob for other in one.top_logprobs})
                for one in found.content]
    tops = found.top_logprobs or [None] * len(found.tokens)
    if not len(found.tokens) == len(found.token_logprobs) == len(tops) or None in found.token_logprobs:
        return []
    return [TokenLogprob(token, logprob or 0.0, top or {})
            for token, logprob, top in zip(found.tokens, found.token_logprobs, tops, strict=True)]


def stop_of(choice: Choice) -> Stop:
    """Return why a choice ended; a stop without a `stop_reason` (SGLang: a string `matched_stop`) is the EOS token."""
    string = choice.stop_reason or isinstance(choice.matched_stop, str)
    known: dict[str | None, Stop] = {"length": "length", "stop": "stop" if string else "eos"}
    return known.get(choice.finish_reason, "unknown")
