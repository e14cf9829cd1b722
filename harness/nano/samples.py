"""Samples of the trained target, on which its draft model is trained."""

from collections.abc import Iterator

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from harness.nano import attention
from harness.nano.corpus import problems
from harness.nano.documents import ANSWER_WEIGHT, PROMPT_WEIGHT, Document, empty, prompt_text
from harness.nano.problem import Problem

TOGETHER, LONGEST = 64, 192


def samples(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, counts: dict[str, int], seed: int
) -> Iterator[Document]:
    """Yield the model's answers to `counts[kind]` training problems of each kind, alternately greedy and sampled."""
    model.set_attn_implementation("sdpa")
    torch.manual_seed(seed)
    for kind, count in counts.items():
        chosen = problems(kind, "train", count, seed)
        for number, start in enumerate(range(0, len(chosen), TOGETHER)):
            yield from _answered(model, tokenizer, chosen[start : start + TOGETHER], kind, number % 2 == 1)
    model.set_attn_implementation(attention.NAME)


def _answered(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, group: list[Problem], kind: str, sample: bool
) -> list[Document]:
    """Return one document per problem: the prompt and the model's answer of every turn."""
    found = [empty() for _ in group]
    for turn in range(len(group[0].turns)):
        asked = tokenizer([prompt_text(one.turns[turn], kind) for one in group]).input_ids
        for document, prompt in zip(found, asked, strict=True):
            document.add(prompt, PROMPT_WEIGHT)
        for document, answer in zip(found, _written(model, tokenizer, found, sample), strict=True):
            document.add(answer, ANSWER_WEIGHT[kind])
    return found


def _written(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[Document], sample: bool
) -> list[list[int]]:
    """Return the model's continuation of each text, up to and including EOS."""
    rows = [{"input_ids": list(text.ids)} for text in texts]
    asked = tokenizer.pad(rows, padding_side="left", return_tensors="pt").to(model.device)
    end = tokenizer.eos_token_id
    law = {"do_sample": True, "top_k": 0} if sample else {"do_sample": False}
    written = model.generate(**asked, **law, max_new_tokens=LONGEST, eos_token_id=end, pad_token_id=end)
    answers = written[:, asked["input_ids"].shape[1] :].tolist()
    return [answer[: answer.index(end) + 1] if end in answer else answer for answer in answers]
