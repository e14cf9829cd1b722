"""A local judge: any model that the harness can load, decoded greedily."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from harness.backends.trace import trace
from harness.backends.transformers import open_session
from harness.engine.batching import run_batched
from harness.engine.cache import CacheFull
from harness.engine.random_stream import PhiloxStream
from harness.judge.endpoint import max_verdict_tokens
from harness.judge.reply import Reply, Save
from harness.models.encoder_decoder import refuse_encoder
from harness.models.loading import load
from harness.models.prompts import encode
from harness.models.stop_rule import StopRule
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request
from harness.plugins.task import Message
from harness.run.loading import find_device

PLAIN = "You are a helpful assistant."
GROUP = 4  # prompts per row of the batch that are submitted together, so that the batch stays full


class Local:
    """The model `judge`, loaded in `dtype` on `device`; its verdicts are deterministic.

    Many chat templates have no system prompt, so it precedes the question under "[Instruction]", as in FastChat. Raises
    `UserError` if the model cannot be loaded.
    """

    def __init__(self, judge: str, max_tokens: int, *, dtype: str = "float32", device: str = "auto",
                 concurrency: int = 4) -> None:
        self.model = load(judge, dtype=dtype, device=find_device(device))
        refuse_encoder(judge, self.model.engine.model.config)
        self.judge, self.where, self.concurrency = judge, f"weights {self.model.fingerprint}", concurrency
        self.settings: dict[str, Any] = {"temperature": 0, "max_tokens": max_tokens, "dtype": dtype}
        self.greedy = STRATEGIES.build("greedy")

    @torch.inference_mode()
    def answer(self, prompts: Sequence[list[Message]], save: Save) -> str | None:
        """Answer all prompts in batches."""
        size = self.concurrency * (GROUP if self.concurrency > 1 else 1)
        for start in range(0, len(prompts), size):
            jobs = [partial(self.ask, messages) for messages in prompts[start:start + size]]
            for number, reply in enumerate(run_batched([self.model.engine], jobs, self.concurrency), start=start):
                save(number, Reply(error=f"{reply}") if isinstance(reply, CacheFull) else reply)
        return None

    def ask(self, messages: Sequence[Message]) -> Reply:
        """Generate one verdict; the reply has an error if the prompt exceeds the model's context."""
        engine, limit = self.model.engine, max_verdict_tokens(self.settings)
        prompt = encode(self.model, merge_system_prompt(messages))
        room = engine.max_len - len(prompt)
        if room < 1:
            return Reply(error=f"the prompt has {len(prompt)} tokens but the context of {self.judge} is "
                               f"{engine.max_len}")
        rule = StopRule(self.model.tokenizer, prompt, self.model.eos, ())
        request = Request(tuple(prompt), min(limit, room), PhiloxStream("judge"), self.model.eos)
        session = open_session(self.greedy, [engine])
        try:
            done = trace(self.greedy, session, request, rule, time.perf_counter)
        finally:
            session.close()
        return Reply(rule.text(done.tokens), tokens_in=len(prompt), tokens_out=len(done.tokens))


def merge_system_prompt(messages: Sequence[Message]) -> list[Message]:
    """Return one user message that begins with the system prompt."""
    system, user = (message["content"] for message in messages)
    return [{"role": "user", "content": user if system == PLAIN else f"[Instruction]\n{system}\n\n{user}"}]
