"""The fields of a completion from an OpenAI-compatible server, with those that vLLM adds."""

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
    token_ids: list[int] | None = None


def stop_of(choice: Choice) -> Stop:
    """Return why a choice ended; a stop without a `stop_reason` is the EOS token."""
    known: dict[str | None, Stop] = {"length": "length", "stop": "stop" if choice.stop_reason else "eos"}
    return known.get(choice.finish_reason, "unknown")
