"""Trains `nano-mamba`: nano with Mamba-2 mixers in place of its attention.

    python -m harness.laboratory.mamba --out FOLDER [--steps 2400] [--align 200] [--rate 4e-3] [--seed 0]

As in Wang et al. 2024 (The Mamba in the Llama, arXiv 2408.15237), mixers start from the projections of the attention
that they replace, and everything else is nano's and stays as it is. In the first `--align` steps each mixer learns to
give what the attention of its layer gives. After that the whole model learns nano's distributions, and the text by
turns. The same command goes on with a training that was stopped.
"""

from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import GraniteMoeHybridConfig, GraniteMoeHybridForCausalLM, LlamaForCausalLM

from harness import nano
from harness.engine.hooks import replaced
from harness.errors import program
from harness.laboratory.resumable import Training, parser, run
from harness.nano import attention, packed
from harness.nano.documents import Batch, batches, documents
from harness.nano.training import distillation_loss, held_out_loss, text_loss

HEADS, STATE = 6, 64
COUNTS = {"math": 24_000, "code": 16_000, "chat": 20_000, "story": 2_000, "edit": 30_000, "summary": 16_000}
HELD_OUT = {"math": 60, "code": 60, "edit": 40, "summary": 40}
TOKENS, MICRO_BATCHES = 1536, 2


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


class MambaTraining(Training):
    """The training of the mixers."""

    def made(self) -> GraniteMoeHybridForCausalLM:
        """Return nano with mixers that start from its attention."""
        self.plain = LlamaForCausalLM.from_pretrained(nano.weights("nano"), dtype=torch.float32).requires_grad_(False)
        self.plain.set_attn_implementation(attention.NAME)
        model = start(self.plain)
        model.config.use_cache = False
        self.mixers: list[nn.Module] = [layer.mamba for layer in model.model.layers]
        return model

    def prepare(self) -> None:
        """Get the batches and the held-out documents."""
        found = documents("train", self.options.counts, self.options.seed, self.tokenizer)
        self.dev = {kind: documents("dev", {kind: count}, 0, self.tokenizer) for kind, count in HELD_OUT.items()}
        self.stream = islice(batches(found, TOKENS, self.options.seed), MICRO_BATCHES * self.step, None)

    def train(self) -> None:
        """Make the steps that are left, with mixers that read all tokens at once."""
        with replaced({mixer: partial(mixed, mixer) for mixer in self.mixers}):
            super().train()

    def gradients(self, step: int) -> float:
        """Read two batches: for what attention gives, or for nano's distributions and for the text."""
        total = 0.0
        for turn, batch in enumerate(islice(self.stream, MICRO_BATCHES)):
            with torch.autocast("cpu", torch.bfloat16):
                if step <= self.options.align:
                    value = self._alignment(batch)
                else:
                    loss = text_loss if turn % 2 else distillation_loss(self.plain)
                    value = loss(self.model(batch.ids[:, :-1]).logits, batch) / batch.weights[:, 1:].sum()
            (value / MICRO_BATCHES).backward()  # type: ignore[no-untyped-call]
            total += value.item() / MICRO_BATCHES
        return total

    def held_out(self) -> dict[str, float]:
        """Return the mean loss of a token by kind."""
        return {kind: held_out_loss(self.model, some) for kind, some in self.dev.items()}

    def save(self) -> None:
        """Write the mixers in 8 bits, the configuration and the curve."""
        trained = {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}
        packed.save(trained, self.options.out)
        written = config(self.plain.config)
        written.nano = packed.MIXERS
        written.save_pretrained(self.options.out)
        self.finish(align=self.options.align, trained=sum(weight.numel() for weight in trained.values()))

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


def main(arguments: list[str] | None = None) -> None:
    """Train and write the mixers."""
    options = parser(__doc__, steps=2400, rate=4e-3)
    options.add_argument("--align", type=int, default=200, help="steps in which each mixer learns from its layer")
    run(MambaTraining, options, arguments, counts=COUNTS)


if __name__ == "__main__":
    program(main)
