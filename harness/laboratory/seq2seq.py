"""Trains `nano-seq2seq`: an encoder-decoder model for edits, summaries and records, from nothing but the corpus.

    python -m harness.laboratory.seq2seq --out FOLDER [--steps 3200] [--rate 4e-3] [--encoder 6] [--decoder 2]

The model is a `MarianMTModel` with nano's tokenizer. A step reads two batches of `TOKENS` tokens of sources and
targets. The same command goes on with a training that was stopped.
"""

import argparse
import json
import time
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import AutoTokenizer, MarianConfig, MarianMTModel

from harness import nano
from harness.errors import program
from harness.laboratory.pairs import COUNTS, IGNORED, Pair, PairBatch, pair_batch, pair_batches, pairs
from harness.nano import packed
from harness.nano.training import WARM_UP, optimizers
from harness.store.files import replace_file

TOKENS, MICRO_BATCHES = 3072, 2
HELD_OUT, REPORT = 200, 100  # problems of each kind; steps
WIDTH = {"d_model": 128, "encoder_ffn_dim": 344, "decoder_ffn_dim": 344, "encoder_attention_heads": 2,
         "decoder_attention_heads": 2}
LONGEST = 512  # tokens of a source or a target


def build(tokenizer: Any, encoder: int, decoder: int, extra: int = 0) -> MarianMTModel:
    """Return an untrained model with so many layers, and `extra` tokens that the tokenizer lacks."""
    end = tokenizer.eos_token_id
    config = MarianConfig.from_dict(WIDTH | {
        "vocab_size": len(tokenizer) + extra, "encoder_layers": encoder, "decoder_layers": decoder,
        "max_position_embeddings": LONGEST, "activation_function": "silu", "scale_embedding": True, "dropout": 0.0,
        "attention_dropout": 0.0, "activation_dropout": 0.0, "eos_token_id": end, "pad_token_id": end,
        "decoder_start_token_id": end, "forced_eos_token_id": None, "tie_word_embeddings": True})
    model = MarianMTModel(config)
    model.set_attn_implementation("eager")  # in bf16 on a CPU, the backward pass of the fused one is slow
    return model


def pair_loss(model: MarianMTModel, batch: PairBatch) -> torch.Tensor:
    """Return the sum of the cross-entropy of all tokens of the targets."""
    with torch.autocast("cpu", torch.bfloat16):
        states = model.model(input_ids=batch.source, attention_mask=batch.mask, decoder_input_ids=batch.given,
                             use_cache=False).last_hidden_state
        counted = batch.labels != IGNORED
        logits = model.lm_head(states[counted])
    return functional.cross_entropy(logits.float(), batch.labels[counted], reduction="sum")


class Seq2SeqTraining:
    """The model, its optimizers and the curve of one training."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.options, self.file = options, options.out / "training.pt"
        self.tokenizer = AutoTokenizer.from_pretrained(nano.weights("nano"))
        self.model = self.made()
        self.optimizers = optimizers(self.model, options.rate)
        self.curve, self.seconds = list[dict[str, float]](), 0.0
        self.step = self._resumed()

    def made(self) -> MarianMTModel:
        """Return the model that is trained."""
        return build(self.tokenizer, self.options.encoder, self.options.decoder)

    def found(self) -> list[Pair]:
        """Return what it learns from."""
        return pairs("train", self.options.counts, self.options.seed, self.tokenizer)

    def loss(self, batch: PairBatch, share: float) -> torch.Tensor:
        """Return the sum of the losses of the counted tokens of a batch, after a `share` of all steps."""
        return pair_loss(self.model, batch)

    def train(self) -> None:
        """Make the steps that are left, and report every `REPORT` of them."""
        start, end, counts = self.model.config.decoder_start_token_id, self.options.steps, self.options.counts
        found = self.found()
        held_out = {kind: pairs("dev", {kind: HELD_OUT}, 0, self.tokenizer) for kind in counts}
        stream = islice(pair_batches(found, TOKENS, self.options.seed, start), MICRO_BATCHES * self.step, None)
        recent, before = float("nan"), time.monotonic() - self.seconds
        for step in range(self.step + 1, end + 1):
            rate = self.options.rate * min(1.0, step / WARM_UP) * (1 - (step - 1) / end)
            for group in (group for one in self.optimizers for group in one.param_groups):
                group["lr"] = rate
            current = self._one_step(stream, step / end)
            recent = current if recent != recent else 0.98 * recent + 0.02 * current
            if step % REPORT == 0 or step == end:
                self.step, self.seconds = step, time.monotonic() - before
                losses = {kind: self._held_out(some) for kind, some in held_out.items()}
                self.curve.append({"step": step, "seconds": round(self.seconds, 1), "train": round(recent, 4),
                                   **losses})
                print(self.curve[-1], flush=True)
                self._keep()

    def save(self) -> None:
        """Write the model, its configuration and the curve."""
        save(self.model, self.options.out)
        self.finish()

    def finish(self) -> None:
        """Write the curve, in place of what the training needs to go on."""
        facts = {"name": self.options.out.name, "seed": self.options.seed, "steps": self.options.steps,
                 "parameters": self.model.num_parameters(), "curve": self.curve}
        (self.options.out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
        self.file.unlink(missing_ok=True)

    def _one_step(self, stream: Iterator[PairBatch], share: float) -> float:
        total = count = 0.0
        for batch in islice(stream, MICRO_BATCHES):
            value = self.loss(batch, share)
            value.backward()  # type: ignore[no-untyped-call]
            total, count = total + value.item(), count + float((batch.labels != IGNORED).sum())
        for weight in self.model.parameters():
            if weight.grad is not None:
                weight.grad /= count
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for one in self.optimizers:
            one.step()
            one.zero_grad()
        return total / count

    @torch.no_grad()
    def _held_out(self, some: list[Any]) -> float:
        total = count = 0.0
        for start in range(0, len(some), 50):
            batch = pair_batch(some[start : start + 50], self.model.config.decoder_start_token_id)
            total, count = total + self.loss(batch, 1.0).item(), count + float((batch.labels != IGNORED).sum())
        return round(total / count, 4)

    def _keep(self) -> None:
        file = BytesIO()
        torch.save({"model": self.model.state_dict(), "optimizers": [one.state_dict() for one in self.optimizers],
                    "curve": self.curve, "step": self.step, "seconds": self.seconds}, file)
        replace_file(self.file, file.getvalue())

    def _resumed(self) -> int:
        """Load what `_keep` wrote, if it did, and return the number of steps made."""
        if not self.file.exists():
            return 0
        found: dict[str, Any] = torch.load(self.file, weights_only=True)
        self.model.load_state_dict(found["model"])
        for one, state in zip(self.optimizers, found["optimizers"], strict=True):
            one.load_state_dict(state)
        self.curve, self.seconds = found["curve"], found["seconds"]
        return int(found["step"])


def save(model: MarianMTModel, folder: Path) -> None:
    """Write a model in 8 bits and its configuration; the tables of positions are computed, so they are left out."""
    packed.save({name: weight for name, weight in model.named_parameters() if "embed_positions" not in name}, folder)
    model.config.save_pretrained(folder)


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, or `arguments`, train, and write the model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--steps", type=int, default=3200)
    parser.add_argument("--rate", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument("--encoder", type=int, default=6, help="layers of the encoder")
    parser.add_argument("--decoder", type=int, default=2, help="layers of the decoder")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.counts = COUNTS
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    training = Seq2SeqTraining(options)
    training.train()
    training.save()


if __name__ == "__main__":
    program(main)
