"""Trains the family from an empty folder: the tokenizer, the target `nano`, then `nano-draft` on nano's own choices.

python -m harness.nano.train --out FOLDER [--minutes M | --steps N] [--seed 0]
    [--start FOLDER --rate 0.5]    to go on from trained models, with another seed for fresh problems
"""

import argparse
import json
import math
import shutil
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional
from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.nano import attention
from harness.nano.corpus import KINDS, problems
from harness.nano.documents import Batch, Document, batches, documents, padded, parts
from harness.nano.tokenizer import CONTEXT, train_tokenizer

SHAPES = {
    "nano": {"hidden_size": 192, "num_hidden_layers": 10, "num_attention_heads": 3, "intermediate_size": 512},
    "nano-draft": {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 344},
}
PEAK_RATE = {"nano": 2e-3, "nano-draft": 3e-3}
TRAIN = {"math": 60_000, "code": 50_000, "chat": 70_000}
HELD_OUT = {"math": 100, "code": 100, "chat": 100}
TOKENS, MICRO_BATCHES, WARM_UP = 2048, 2, 100
SAVE_SECONDS = 300


@dataclass
class Run:
    """One training run: where it saves, how long it lasts (steps or seconds), and the curve so far."""

    name: str
    folder: Path
    steps: int | None
    seconds: float | None
    rate: float
    earlier: dict[str, object] | None = None
    started: float = field(default_factory=time.monotonic)
    tokens: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)

    def progress(self, step: int) -> float:
        """Return the share of the run that is over, 0 to 1."""
        if self.steps is not None:
            return step / self.steps
        assert self.seconds is not None
        return min(1.0, (time.monotonic() - self.started) / self.seconds)


Loss = Callable[[torch.Tensor, Batch], torch.Tensor]


def build(name: str, tokenizer: PreTrainedTokenizerFast, start: Path | None = None) -> LlamaForCausalLM:
    """Return an untrained model of the family, or the one that is in the folder `start`."""
    end = tokenizer.eos_token_id
    config = LlamaConfig.from_dict(
        SHAPES[name]
        | {
            "vocab_size": len(tokenizer),
            "num_key_value_heads": SHAPES[name]["num_attention_heads"],
            "max_position_embeddings": CONTEXT,
            "tie_word_embeddings": True,
            "bos_token_id": end,
            "eos_token_id": end,
            "pad_token_id": end,
        }
    )
    model = LlamaForCausalLM.from_pretrained(start / name, dtype=torch.float32) if start else LlamaForCausalLM(config)
    model.set_attn_implementation(attention.NAME)
    return model


def text_loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Return the sum over tokens of weight times cross-entropy with the text."""
    losses: torch.Tensor = functional.cross_entropy(
        logits.flatten(0, 1).float(), batch.ids[:, 1:].flatten(), reduction="none"
    )
    return (losses * batch.weights[:, 1:].flatten()).sum()


def distillation_loss(teacher: LlamaForCausalLM) -> Loss:
    """Return a loss: cross-entropy with the teacher's distribution at each token, times the token's weight."""

    def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            wanted = teacher(batch.ids[:, :-1]).logits.float().softmax(-1)
        losses: torch.Tensor = -(wanted * logits.float().log_softmax(-1)).sum(-1)
        return (losses * batch.weights[:, 1:]).sum()

    return loss


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, found: list[Document]) -> float:
    """Return the mean cross-entropy of the answers' tokens in nats."""
    total = count = 0.0
    for start in range(0, len(found), 20):
        ids, weights = padded(sorted(found, key=lambda one: len(one.ids))[start : start + 20])
        answers = Batch(ids, (weights >= 1.0).float())
        with torch.autocast("cpu", torch.bfloat16):
            total += text_loss(model(ids[:, :-1]).logits, answers).item()
        count += answers.weights[:, 1:].sum().item()
    return total / count


def train(
    model: LlamaForCausalLM,
    run: Run,
    data: tuple[list[Document], list[Document]],
    loss: Loss,
    seed: int,
    save: Callable[[], None],
) -> None:
    """Train `model` in place: AdamW, warm-up, cosine to a tenth, bf16 autocast; saves from time to time."""
    train_data, held_out = data
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, foreach=True)
    stream = batches(train_data, TOKENS, seed)
    step, recent, saved = 0, 0.0, time.monotonic()
    while (done := run.progress(step)) < 1:
        for group in optimizer.param_groups:
            cosine = 0.55 + 0.45 * math.cos(math.pi * done)
            group["lr"] = run.rate * cosine * min(1.0, (step + 1) / WARM_UP)
        chosen = [next(stream) for _ in range(MICRO_BATCHES)]
        weight = sum(batch.weights[:, 1:].sum().item() for batch in chosen)
        current = 0.0
        for batch in chosen:
            with torch.autocast("cpu", torch.bfloat16):
                value = loss(model(batch.ids[:, :-1]).logits, batch) / weight
            torch.autograd.backward(value)
            current += value.item()
            run.tokens += batch.ids.numel()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent, step = (current if step == 0 else 0.98 * recent + 0.02 * current), step + 1
        if step % 100 == 0:
            report(model, run, step, recent, held_out)
        if time.monotonic() - saved > SAVE_SECONDS:
            save()
            saved = time.monotonic()
    report(model, run, step, recent, held_out)
    save()


def report(model: LlamaForCausalLM, run: Run, step: int, recent: float, held_out: list[Document]) -> None:
    """Print one line of progress and add it to the run's curve."""
    seconds = time.monotonic() - run.started
    point = {"step": step, "seconds": round(seconds, 1), "tokens": run.tokens, "train_loss": round(recent, 4)}
    point["held_out_loss"] = round(held_out_loss(model, held_out), 4)
    run.curve.append(point)
    speed = f"{seconds:.0f} s, {run.tokens / seconds:.0f} tokens/s"
    print(f"{run.name}: step {step}, {speed}, train {recent:.4f}, held out {point['held_out_loss']:.4f}", flush=True)


def save_model(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, run: Run, seed: int) -> None:
    """Write the model in bf16, its tokenizer and its curve; the folder is replaced as a whole."""
    fresh, old = run.folder.with_name(run.folder.name + ".new"), run.folder.with_name(run.folder.name + ".old")
    for folder in (fresh, old):
        shutil.rmtree(folder, ignore_errors=True)
    copy = deepcopy(model)
    torch.nn.Module.to(copy, dtype=torch.bfloat16)
    end = tokenizer.eos_token_id
    copy.generation_config = GenerationConfig.from_dict({"eos_token_id": end, "pad_token_id": end, "bos_token_id": end})
    copy.save_pretrained(fresh)
    tokenizer.save_pretrained(fresh)
    facts = {"name": run.name, "seed": seed, "parameters": model.num_parameters(), "curve": run.curve}
    facts["went_on_from"] = run.earlier
    (fresh / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    if run.folder.exists():
        run.folder.rename(old)
    fresh.rename(run.folder)
    shutil.rmtree(old, ignore_errors=True)


def train_family(chosen: argparse.Namespace) -> None:
    """Train both models into the folder `out`; nano-draft takes `draft_share` of nano's minutes or steps."""
    seed, steps, start = chosen.seed, chosen.steps, chosen.start
    minutes = chosen.minutes or (None if steps else 40.0)
    tokenizer = AutoTokenizer.from_pretrained(start / "nano") if start else new_tokenizer(seed)
    train_data = documents("train", TRAIN, seed, tokenizer)
    held_out = documents("dev", HELD_OUT, 0, tokenizer)
    size = sum(len(document.ids) for document in train_data)
    print(f"{len(train_data)} documents, {size / 1e6:.1f} M tokens, vocabulary {len(tokenizer)}", flush=True)
    teacher: LlamaForCausalLM | None = None
    for name in SHAPES:
        torch.manual_seed(seed)
        model = build(name, tokenizer, start)
        part, rate = (chosen.draft_share if teacher else 1.0), PEAK_RATE[name] * chosen.rate
        run = Run(name, chosen.out / name, steps and max(1, round(steps * part)), minutes and minutes * 60 * part, rate)
        run.earlier = json.loads((start / name / "training.json").read_text()) if start else None
        print(f"{name}: {model.num_parameters() / 1e6:.2f} M parameters", flush=True)
        loss = distillation_loss(teacher) if teacher else text_loss
        train(model, run, (train_data, held_out), loss, seed, partial(save_model, model, tokenizer, run, seed))
        teacher = model


def new_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer trained on a part of the corpus."""
    return train_tokenizer(
        piece for kind in KINDS for one in problems(kind, "train", 4000, seed) for piece, _ in parts(one, kind)
    )


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, or `arguments`, and train the family on one thread."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder that will hold nano/ and nano-draft/")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, help="minutes of training for nano (default 40)")
    length.add_argument("--steps", type=int, help="steps of training for nano, in place of minutes")
    parser.add_argument("--draft-share", type=float, default=0.25, help="nano-draft's share of nano's length")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=Path, help="folder with trained models to go on from")
    parser.add_argument("--rate", type=float, default=1.0, help="factor on the peak learning rates")
    torch.set_num_threads(1)
    train_family(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
