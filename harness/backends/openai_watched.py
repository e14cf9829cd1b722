"""A server whose replies are kept whole, with log-probs, to compare what two servers answer."""

from collections.abc import Sequence
from typing import Any

from harness.backends.external import GenerationRequest
from harness.backends.openai import UNSUPPORTED, Served, reached
from harness.backends.openai_connection import Failed
from harness.backends.openai_fields import Fields
from harness.backends.openai_stream import Reply
from harness.errors import UserError
from harness.models.loading import Model
from harness.models.prompts import WARM_UP, encode
from harness.store.config import RunConfig

TOP = 5  # tokens whose log-probs are asked for: OpenAI's maximum


class Watched(Served):
    """The server at --base-url, asked with these `fields` in every request, and for log-probs if it has them."""

    def __init__(self, config: RunConfig, target: Model, fields: Fields) -> None:
        self.fields, self.more, self.replies = fields, fields, dict[GenerationRequest, Reply]()
        super().__init__(*reached(config), config, target)
        self.has_logprobs = self._ask_for_logprobs(target)

    def taken(self) -> dict[GenerationRequest, Reply]:
        """Return the last reply to each request since the last call."""
        replies, self.replies = self.replies, {}
        return replies

    def _ask_for_logprobs(self, target: Model) -> bool:
        """Ask for log-probs if a request shows that the server returns them; otherwise leave the fields as they are."""
        self.more = {**self.fields, **_logprob_fields(self.server.kind)}
        try:
            if self._tried(GenerationRequest(tuple(encode(target, WARM_UP)), 1, 0)).logprobs:
                return True
        except Failed as error:
            if error.status not in UNSUPPORTED:
                raise UserError(f"{self.connection.where} answers no request for log-probs ({error}).") from None
        self.more = self.fields
        return False

    def _body(self, wanted: Fields, request: GenerationRequest) -> dict[str, Any]:
        return super()._body(wanted, request) | dict(self.more)

    def _reply(self, wanted: Fields, request: GenerationRequest) -> Reply:
        reply = super()._reply(wanted, request)
        self.replies[request] = reply
        return reply


def _logprob_fields(kind: str) -> Fields:
    """Return the fields that ask for log-probs; vLLM then names tokens by their ids, which are never ambiguous."""
    return {"logprobs": TOP, **({"return_tokens_as_token_ids": True} if kind == "vLLM" else {})}


def units(replies: Sequence[Reply]) -> list[list[str]]:
    """Return the answers of several replies in the finest units that all of them tell: token ids, tokens, characters.
    """
    if all(reply.has_ids for reply in replies):
        return [[f"token_id:{token}" for token in reply.ids] for reply in replies]
    if all(reply.logprobs for reply in replies):
        return [[one.token for one in reply.logprobs] for reply in replies]
    return [list(reply.text) for reply in replies]
