"""The training loop of the family: Muon for matrices, AdamW for the rest, bf16, and a curve of held-out losses."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from harness.nano.documents import Batch, Document, padded
from harness.nano.team import Team

Loss = Callable[[torch.Tensor, Batch], torch.Tensor]
Point = dict[str, float]

MICRO_BATCHES, WARM_UP = 2, 50
REPORT_STEPS, SAVE_SECONDS = 100, 300
HELD_OUT_ROWS = 20


@dataclass
class Run:
    """One training run: how long it lasts (steps or seconds), its peak rate, and the curve so far."""

    name: str
    steps: int | None
    seconds: float | None
    rate: float
    started: float = field(default_factory=time.monotonic)
    tokens: int = 0
    curve: list[Point] = field(default_factory=list)

    def progress(self, step: int) -> float:
        """Return the finished share of the run, 0 to 1."""
        if self.steps is not None:
            return step / self.steps
        assert self.seconds is not None
        return min(1.0, (time.monotonic() - self.started) / self.seconds)


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


def train(
    model: LlamaForCausalLM,
    run: Run,
    data: tuple[Iterator[Batch], dict[str, list[Document]]],
    loss: Loss,
    team: Team,
    save: Callable[[], None],
) -> None:
    """Train `model` in place on a stream of batches; the rate warms up and falls linearly to zero.

    A step sums the gradients of every worker's micro-batches and divides them by the summed weight of their tokens.
    `data` holds the batches and, by kind, the documents whose loss is reported.
    """
    stream, held_out = data
    both = optimizers(model, run.rate)
    peaks = [[group["lr"] for group in one.param_groups] for one in both]
    step, recent, saved = 0, 0.0, time.monotonic()
    while (done := team.agreed(run.progress(step))) < 1:
        for optimizer, rates in zip(both, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = peak * (1 - done) * min(1.0, (step + 1) / WARM_UP)
        current = _gradients(model, run, stream, loss, team)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in both:
            optimizer.step()
        recent, step = (current if step == 0 else 0.98 * recent + 0.02 * current), step + 1
        if step % REPORT_STEPS == 0 and team.first:
            report(model, run, step, recent, held_out)
        if team.first and time.monotonic() - saved > SAVE_SECONDS:
            save()
            saved = time.monotonic()
    if team.first:
        report(model, run, step, recent, held_out)
        save()


def optimizers(model: torch.nn.Module, rate: float) -> tuple[torch.optim.Optimizer, ...]:
    """Return Muon for matrices and AdamW for embeddings, norms and all else that is trained, at a peak `rate`.

    Muon: Jordan 2024; scaled as in Liu et al. 2025, arXiv 2502.16982.
    """
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    embeddings = {id(one.weight) for one in model.modules() if isinstance(one, torch.nn.Embedding)}
    matrices = [weight for weight in trained if weight.dim() == 2 and id(weight) not in embeddings]
    inner = {id(weight) for weight in matrices}
    others = [weight for weight in trained if id(weight) not in inner]
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    return muon, torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, foreach=True)


def _gradients(model: LlamaForCausalLM, run: Run, stream: Iterator[Batch], loss: Loss, team: Team) -> float:
    """Compute the gradient of the mean weighted loss in the model; returns that loss."""
    model.zero_grad(set_to_none=False)
    current = weight = 0.0
    for _ in range(MICRO_BATCHES):
        batch = next(stream).to(team.device)
        with torch.autocast(team.device, torch.bfloat16):
            value = loss(model(batch.ids[:, :-1]).logits, batch)
        torch.autograd.backward(value)
        current += value.item()
        weight += batch.weights[:, 1:].sum().item()
        run.tokens += batch.ids.numel() * team.size
    gradients = [one.grad for one in model.parameters() if one.grad is not None]
    sums = torch.tensor([current, weight], device=team.device)
    flat = team.total(torch.cat([sums, *(gradient.flatten() for gradient in gradients)]))
    place = 2
    for gradient in gradients:
        gradient.copy_(flat[place : place + gradient.numel()].view_as(gradient) / flat[1])
        place += gradient.numel()
    return (flat[0] / flat[1]).item()


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, found: list[Document]) -> float:
    """Return the mean cross-entropy of the answers' tokens in nats."""
    total = count = 0.0
    for start in range(0, len(found), HELD_OUT_ROWS):
        ids, weights = padded(sorted(found, key=lambda one: len(one.ids))[start : start + HELD_OUT_ROWS])
        answers = Batch(ids, (weights >= 1.0).float()).to(model.device)
        with torch.autocast(model.device.type, torch.bfloat16):
            total += text_loss(model(answers.ids[:, :-1]).logits, answers).item()
        count += answers.weights[:, 1:].sum().item()
    return total / count


def report(
    model: LlamaForCausalLM, run: Run, step: int, recent: float, held_out: dict[str, list[Document]]
) -> None:
    """Print one line of progress and add it to the run's curve."""
    seconds = time.monotonic() - run.started
    point: Point = {"step": step, "seconds": round(seconds, 1), "tokens": run.tokens, "train": round(recent, 4)}
    losses = {kind: round(held_out_loss(model, found), 4) for kind, found in held_out.items()}
    run.curve.append(point | losses)
    shown = " ".join(f"{kind} {value:.3f}" for kind, value in losses.items())
    speed = f"{seconds:.0f} s, {run.tokens / seconds:.0f} tokens/s"
    print(f"{run.name}: step {step}, {speed}, train {recent:.4f}, held out {shown}", flush=True)
