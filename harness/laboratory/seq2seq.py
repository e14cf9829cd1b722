"""Trains `nano-seq2seq`: an encoder-decoder model for edits, summaries and records, from nothing but the corpus.

    python -m harness.laboratory.seq2seq --out FOLDER [--steps 3200] [--rate 4e-3] [--encoder 6] [--decoder 2]

The model is a `MarianMTModel` with nano's tokenizer. A step reads two batches of `TOKENS` tokens of sources and
targets. The same command goes on with a training that was stopped.
"""

from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import MarianConfig, MarianMTModel

from harness.errors import program
from harness.laboratory.pairs import COUNTS, IGNORED, Pair, PairBatch, pair_batch, pair_batches, pairs
from harness.laboratory.resumable import Training, parser, run
from harness.nano import packed

TOKENS, MICRO_BATCHES = 3072, 2
HELD_OUT = 200  # problems of each kind
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


class Seq2SeqTraining(Training):
    """The training of an encoder-decoder model."""

    def made(self) -> MarianMTModel:
        """Return an untrained model."""
        return build(self.tokenizer, self.options.encoder, self.options.decoder)

    def found(self) -> list[Pair]:
        """Return what it learns from."""
        return pairs("train", self.options.counts, self.options.seed, self.tokenizer)

    def loss(self, batch: PairBatch, share: float) -> torch.Tensor:
        """Return the sum of the losses of the counted tokens of a batch, after a `share` of all steps."""
        return pair_loss(self.model, batch)

    def prepare(self) -> None:
        """Get the batches and the held-out pairs."""
        self.start = self.model.config.decoder_start_token_id
        batches = pair_batches(self.found(), TOKENS, self.options.seed, self.start)
        self.stream = islice(batches, MICRO_BATCHES * self.step, None)
        self.dev = {kind: pairs("dev", {kind: HELD_OUT}, 0, self.tokenizer) for kind in self.options.counts}

    def gradients(self, step: int) -> float:
        """Read two batches, in which each token counts as much."""
        total = count = 0.0
        for batch in islice(self.stream, MICRO_BATCHES):
            value = self.loss(batch, step / self.options.steps)
            value.backward()  # type: ignore[no-untyped-call]
            total, count = total + value.item(), count + float((batch.labels != IGNORED).sum())
        for weight in self.model.parameters():
            if weight.grad is not None:
                weight.grad /= count
        return total / count

    def held_out(self) -> dict[str, float]:
        """Return the mean loss of a token by kind."""
        return {kind: self._mean(some) for kind, some in self.dev.items()}

    def save(self) -> None:
        """Write the model, its configuration and the curve."""
        save(self.model, self.options.out)
        self.finish()

    def _mean(self, some: list[Pair]) -> float:
        total = count = 0.0
        for start in range(0, len(some), 50):
            batch = pair_batch(some[start : start + 50], self.start)
            total, count = total + self.loss(batch, 1.0).item(), count + float((batch.labels != IGNORED).sum())
        return total / count


def save(model: MarianMTModel, folder: Path) -> None:
    """Write a model in 8 bits and its configuration; the tables of positions are computed, so they are left out."""
    packed.save({name: weight for name, weight in model.named_parameters() if "embed_positions" not in name}, folder)
    model.config.save_pretrained(folder)


def main(arguments: list[str] | None = None) -> None:
    """Train and write the model."""
    options = parser(__doc__, steps=3200, rate=4e-3)
    options.add_argument("--encoder", type=int, default=6, help="layers of the encoder")
    options.add_argument("--decoder", type=int, default=2, help="layers of the decoder")
    run(Seq2SeqTraining, options, arguments, counts=COUNTS)


if __name__ == "__main__":
    program(main)
