"""The contenders of the benchmarks: the harness, hand-written loops, `generate` and lm-eval."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from harness.backends.transformers import open_session
from harness.engine.batching import run_batched
from harness.engine.engine import cache_argument
from harness.engine.random_stream import PhiloxStream
from harness.models.loading import Model
from harness.nano import NAMES, weights
from harness.plugins.registry import STRATEGIES
from harness.plugins.strategy import Request

Sequences = Sequence[list[int]]
Contender = Callable[[], Sequences]
"""Decodes its prompts and returns the new token ids of each."""


def ours(spec: str, prompts: Sequences, target: Model, draft: Model, new: int, concurrency: int = 1) -> Contender:
    """Return a strategy of the harness on `prompts` at batch size `concurrency`; `new` tokens each, EOS ignored."""
    strategy = STRATEGIES.build(spec)

    def one(prompt: list[int]) -> list[int]:
        session, tokens = open_session(strategy, [target.engine, draft.engine]), list[int]()
        try:
            for block in strategy.generate(session, Request(tuple(prompt), new, PhiloxStream(0, prompt))):
                tokens += block
                if len(tokens) >= new:
                    break
        finally:
            session.close()
        return tokens[:new]

    def decode() -> Sequences:
        jobs = [partial(one, prompt) for prompt in prompts]
        if concurrency == 1:
            return [job() for job in jobs]
        return run_batched([target.engine, draft.engine], jobs, concurrency)  # type: ignore[return-value]
    return decode


def library(name: str, dtype: str = "float32") -> Any:
    """Load an embedded model, a folder or a hub id with transformers, without the optimisations of the harness."""
    from transformers import AutoModelForCausalLM

    source = weights(name) if name in NAMES else name
    return AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, dtype)).eval()


def bare(prompts: Sequences, model: Any, new: int) -> Contender:
    """Return the shortest greedy loop over the model's own forward and cache."""
    from transformers import DynamicCache

    def one(prompt: list[int]) -> list[int]:
        cache, feed, tokens = DynamicCache(), torch.tensor([prompt]), list[int]()
        while len(tokens) < new:
            logits = model(input_ids=feed, logits_to_keep=1, **{cache_argument(model): cache}).logits
            tokens.append(int(logits[0, -1].argmax()))
            feed = torch.tensor([tokens[-1:]])
        return tokens
    return lambda: [one(prompt) for prompt in prompts]


def bare_batch(prompts: Sequences, target: Model, new: int) -> Contender:
    """Return a greedy loop with one forward for all prompts, of equal length, on a cache that is written in place."""
    engine, count, size = target.engine, len(prompts), len(prompts[0])

    def step(tokens: torch.Tensor, start: int) -> torch.Tensor:
        end = start + tokens.shape[1]
        positions = torch.arange(start, end).expand(count, -1)
        engine.cache.prepare(0, count, end, positions)
        causal = torch.arange(end) <= positions[:, None, :, None]
        mask = torch.where(causal, 0.0, torch.finfo(torch.float32).min)
        out = engine.model(input_ids=tokens, attention_mask=mask, position_ids=positions, use_cache=True,
                           logits_to_keep=1, **{engine.cache_argument: engine.cache})
        best: torch.Tensor = out.logits.argmax(-1)
        return best

    def decode() -> Sequences:
        engine.cache.reserve(count, size + new)
        tokens = [step(torch.tensor(list(prompts)), 0)]
        while len(tokens) < new:
            tokens.append(step(tokens[-1], size + len(tokens) - 1))
        sequences: list[list[int]] = torch.cat(tokens, 1).tolist()
        return sequences
    return decode


def generated(prompts: Sequences, model: Any, new: int, **options: Any) -> Contender:
    """Return `generate` of transformers, one prompt at a time, `new` tokens each (EOS is an unused token)."""
    def one(prompt: list[int]) -> list[int]:
        ids = torch.tensor([prompt])
        out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False,
                             pad_token_id=0, eos_token_id=[model.config.vocab_size - 1], **options)
        tokens: list[int] = out[0, len(prompt):].tolist()
        return tokens
    return lambda: [one(prompt) for prompt in prompts]


def assisted(prompts: Sequences, model: Any, draft: Any, new: int, gamma: int) -> Contender:
    """Return `generate` with a draft model that always drafts `gamma` tokens."""
    settings = draft.generation_config
    settings.num_assistant_tokens, settings.num_assistant_tokens_schedule = gamma, "constant"
    settings.assistant_confidence_threshold = 0.0
    return generated(prompts, model, new, assistant_model=draft)


def lm_eval(model: Any, tokenizer: Any, batch: int) -> Any:
    """Create lm-eval's `hf` backend for a model of transformers; raises `ImportError` when lm-eval is not installed."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch, device="cpu")


def lm_eval_answers(backend: Any, prompts: Sequence[str], stop: Sequence[str], new: int) -> list[str]:
    """Return the output of lm-eval's `generate_until` for each prompt."""
    from lm_eval.api.instance import Instance

    options = {"until": list(stop), "max_gen_toks": new, "do_sample": False}
    requests = [Instance("generate_until", {}, (prompt, options), i) for i, prompt in enumerate(prompts)]
    answers: list[str] = backend.generate_until(requests, disable_tqdm=True)
    return answers
