"""Trains `nano-mamba`: nano with Mamba-2 mixers in place of its attention.

    python -m harness.laboratory.mamba --out FOLDER [--steps 2400] [--align 200] [--rate 4e-3] [--seed 0]

As in Wang et al. 2024 (The Mamba in the Llama, arXiv 2408.15237), mixers start from the projections of the attention
that they replace, and everything else is nano's and stays as it is. In the first `--align` steps each mixer learns to
give what the attention of its layer gives. After that the whole model learns nano's distributions, and the text by
turns. The same command goes on with a training that was stopped.
"""

import argparse
import json
import time
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoTokenizer, GraniteMoeHybridConfig, GraniteMoeHybridForCausalLM, LlamaForCausalLM

from harness import nano
from harness.engine.hooks import replaced
from harness.errors import program
from harness.nano import attention, packed
from harness.nano.documents import Batch, Document, batches, documents
from harness.nano.training import WARM_UP, distillation_loss, held_out_loss, optimizers, text_loss
from harness.store.files import replace_file

HEADS, STATE = 6, 64
COUNTS = {"math": 24_000, "code": 16_000, "chat": 20_000, "story": 2_000, "edit": 30_000, "summary": 16_000}
HELD_OUT = {"math": 60, "code": 60, "edit": 40, "summary": 40}
TOKENS, MICRO_BATCHES, REPORT, CLIP = 1536, 2, 100, 1.0


def config(plain: Any) -> GraniteMoeHybridConfig:
    """Return the configuration of the model, given nano's."""
    return GraniteMoeHybridConfig(
        vocab_size=plain.vocab_size, hidden_size=plain.hidden_size, num_hidden_layers=plain.num_hidden_layers,
        layer_types=["linear_attention"] * plain.num_hidden_layers, num_attention_heads=plain.num_attention_heads,
        num_local_experts=0, num_experts_per_tok=0, shared_intermediate_size=plain.intermediate_size,
        rms_norm_eps=plain.rms_norm_eps, tie_word_embeddings=True, mamba_expand=1, mamba_n_heads=HEADS,
        mamba_d_head=plain.hidden_size // HEADS, mamba_d_state=STATE, mamba_n_groups=1, mamba_chunk_size=64,
        max_position_embeddings=plain.max_position_embeddings, bos_token_id=plain.bos_token_id,
        eos_token_id=plain.eos_token_id, pad_token_id=plain.pad_token_id)


def start(plain: LlamaForCausalLM) -> GraniteMoeHybridForCausalLM:
    """Return nano with mixers that start from its attention; only they are trained."""
    model = GraniteMoeHybridForCausalLM(config(plain.config))
    model.load_state_dict(packed.but_attention(plain.state_dict()), strict=False)
    model.requires_grad_(False)
    for layer, old in zip(model.model.layers, plain.model.layers, strict=True):
        mixer, width = layer.mamba.requires_grad_(True), plain.config.hidden_size
        with torch.no_grad():  # in_proj gives the gate, then x, B and C, then the step sizes
            mixer.in_proj.weight[width : 2 * width] = old.self_attn.v_proj.weight
            mixer.in_proj.weight[2 * width : 2 * width + STATE] = old.self_attn.k_proj.weight[:STATE]
            mixer.in_proj.weight[2 * width + STATE : 2 * width + 2 * STATE] = old.self_attn.q_proj.weight[:STATE]
            mixer.out_proj.weight.copy_(old.self_attn.o_proj.weight)
    return model


def mixed(mixer: Any, hidden_states: Tensor, **_: Any) -> Tensor:
    """Return what a Mamba-2 mixer gives for whole sequences (B, T, D), by products of all pairs of tokens.

    Equation 6 of Dao and Gu 2024 (arXiv 2405.21060). For short texts it is several times faster than the scan.
    """
    width, heads, groups = mixer.intermediate_size, mixer.num_heads, mixer.n_groups * mixer.ssm_state_size
    gate, content, steps = torch.split(mixer.in_proj(hidden_states), [width, width + 2 * groups, heads], -1)
    content = functional.silu(mixer.conv1d(content.mT)[..., : content.shape[1]].mT)
    values, keys, queries = torch.split(content, [width, groups, groups], -1)
    steps = functional.softplus(steps.float() + mixer.dt_bias)                                # (B, T, H)
    decay = (-steps * mixer.A_log.float().exp()).cumsum(1).mT                                 # (B, H, T)
    between = (decay[..., :, None] - decay[..., None, :])
    future = torch.ones(between.shape[-2:], dtype=torch.bool).triu(1)
    pairs = (queries @ keys.mT)[:, None] * between.masked_fill(future, float("-inf")).exp().to(queries.dtype)
    split = values.view(*values.shape[:2], heads, -1).transpose(1, 2)                               # (B, H, T, P)
    found = pairs @ (split * steps.mT[..., None].to(split.dtype)) + split * mixer.D[:, None, None].to(split.dtype)
    return mixer.out_proj(mixer.norm(found.transpose(1, 2).flatten(2), gate))  # type: ignore[no-any-return]


class MambaTraining:
    """The model, its optimizers and the curve of one training."""

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.options, self.file = options, options.out / "training.pt"
        self.tokenizer = AutoTokenizer.from_pretrained(nano.weights("nano"))
        self.plain = LlamaForCausalLM.from_pretrained(nano.weights("nano"), dtype=torch.float32).requires_grad_(False)
        self.plain.set_attn_implementation(attention.NAME)
        self.model = start(self.plain)
        self.model.config.use_cache = False
        self.mixers: list[nn.Module] = [layer.mamba for layer in self.model.model.layers]
        self.optimizers = optimizers(self.model, options.rate)
        self.curve, self.seconds = list[dict[str, float]](), 0.0
        self.step = self._resumed()

    def train(self) -> None:
        """Make the steps that are left, and report every `REPORT` of them."""
        found = documents("train", self.options.counts, self.options.seed, self.tokenizer)
        held_out = {kind: documents("dev", {kind: count}, 0, self.tokenizer) for kind, count in HELD_OUT.items()}
        stream = islice(batches(found, TOKENS, self.options.seed), MICRO_BATCHES * self.step, None)
        recent, before, steps = float("nan"), time.monotonic() - self.seconds, self.options.steps
        with replaced({mixer: partial(mixed, mixer) for mixer in self.mixers}):
            for step in range(self.step + 1, steps + 1):
                rate = self.options.rate * min(1.0, step / WARM_UP) * (1 - (step - 1) / steps)
                for group in (group for one in self.optimizers for group in one.param_groups):
                    group["lr"] = rate
                current = self._one_step(step, stream)
                recent = current if recent != recent else 0.95 * recent + 0.05 * current
                if step % REPORT == 0 or step == steps:
                    self.step, self.seconds = step, time.monotonic() - before
                    self._report(recent, held_out)
                    self._keep()

    def save(self) -> None:
        """Write the mixers in 8 bits, the configuration and the curve, in place of what is needed to go on."""
        packed.save({name: weight for name, weight in self.model.named_parameters() if ".mamba." in name},
                    self.options.out)
        written = config(self.plain.config)
        written.nano = packed.MIXERS
        written.save_pretrained(self.options.out)
        facts = {"name": "nano-mamba", "seed": self.options.seed, "steps": self.options.steps,
                 "align": self.options.align, "parameters": self.model.num_parameters(),
                 "trained": sum(weight.numel() for weight in self.model.parameters() if weight.requires_grad),
                 "curve": self.curve}
        (self.options.out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
        self.file.unlink(missing_ok=True)

    def _one_step(self, step: int, stream: Iterator[Batch]) -> float:
        total = 0.0
        for turn, batch in enumerate(islice(stream, MICRO_BATCHES)):
            with torch.autocast("cpu", torch.bfloat16):
                if step <= self.options.align:
                    value = self._alignment(batch)
                else:
                    loss = text_loss if turn % 2 else distillation_loss(self.plain)
                    value = loss(self.model(batch.ids[:, :-1]).logits, batch) / batch.weights[:, 1:].sum()
            (value / MICRO_BATCHES).backward()  # type: ignore[no-untyped-call]
            total += value.item() / MICRO_BATCHES
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        for one in self.optimizers:
            one.step()
            one.zero_grad()
        return total

    def _alignment(self, batch: Batch) -> Tensor:
        """Return how far mixers are from the attention of their layers, given the same states: a share of its size."""
        seen = list[tuple[Tensor, Tensor]]()

        def noted(forward: Any, *args: Any, **kwargs: Any) -> Any:
            output = forward(*args, **kwargs)
            seen.append((kwargs["hidden_states"], output[0]))
            return output
        attentions = [layer.self_attn for layer in self.plain.model.layers]
        with torch.no_grad(), replaced({one: partial(noted, one.forward) for one in attentions}):
            self.plain.model(batch.ids[:, :-1])
        real = (batch.weights[:, :-1] > 0)[..., None]
        parts = [((mixer(states) - wanted).float()[real.expand_as(wanted)].square().mean()
                  / wanted.float()[real.expand_as(wanted)].square().mean())
                 for mixer, (states, wanted) in zip(self.mixers, seen, strict=True)]
        return torch.stack(parts).mean()

    def _report(self, recent: float, held_out: dict[str, list[Document]]) -> None:
        losses = {kind: round(held_out_loss(self.model, some), 4) for kind, some in held_out.items()}
        self.curve.append({"step": self.step, "seconds": round(self.seconds, 1), "train": round(recent, 4), **losses})
        print(self.curve[-1], flush=True)

    def _keep(self) -> None:
        file = BytesIO()
        torch.save({"mixers": [mixer.state_dict() for mixer in self.mixers],
                    "optimizers": [one.state_dict() for one in self.optimizers],
                    "curve": self.curve, "step": self.step, "seconds": self.seconds}, file)
        replace_file(self.file, file.getvalue())

    def _resumed(self) -> int:
        """Load what `_keep` wrote, if it did, and return the number of steps made."""
        if not self.file.exists():
            return 0
        found: dict[str, Any] = torch.load(self.file, weights_only=True)
        for mixer, weights in zip(self.mixers, found["mixers"], strict=True):
            mixer.load_state_dict(weights)
        for one, state in zip(self.optimizers, found["optimizers"], strict=True):
            one.load_state_dict(state)
        self.curve, self.seconds = found["curve"], found["seconds"]
        return int(found["step"])


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, or `arguments`, train, and write the mixers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the model")
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--align", type=int, default=200, help="steps in which each mixer learns from its layer")
    parser.add_argument("--rate", type=float, default=4e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    options.counts = COUNTS
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    training = MambaTraining(options)
    training.train()
    training.save()


if __name__ == "__main__":
    program(main)
