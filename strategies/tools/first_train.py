"""Train the routers of `first`, and put the layers in the order of `source=profile`.

`python -m strategies.tools.first_train --model nano --out FILE` lets the model answer prompts, and trains a router for
each layer on these answers, with the model frozen. An answer token leaves each layer l with h + r · (l(h) − h), where r
is the mean of the layer's router over the prompt. The loss is the cross-entropy of the answer plus `--weight` times the
mean of all r. With `--tune DIR`, low-rank changes of the model are trained after that, under the layers that the
routers choose, and the changed model is written to DIR; the file then belongs to that one.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch.nn import functional

from harness import nano
from harness.engine.hooks import Skip
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import UserError
from harness.heads.network import TargetParts
from harness.laboratory import prompts
from harness.laboratory.corpus import Answer, answers
from harness.models.loading import Model, fingerprint
from harness.run.loading import find_device, load_target
from harness.store.config import RunConfig
from strategies.parts.router_training import Gates, train
from strategies.parts.routers import Routers

HELD_OUT, MOST = 10, 24  # one answer in so many is held out, and at most so many


@torch.inference_mode()
def answer_loss(session: Session, answer: Answer, skipped: frozenset[int]) -> float:
    """Return the mean loss of an answer without these layers, whose prompt ran all of them."""
    session.follow(answer.prompt)
    session.read()
    rows = session.read(TokenTree.chain(answer.tokens), Skip(skipped, skipped)).logits[:-1]
    return float(functional.cross_entropy(rows, torch.tensor(answer.tokens, device=rows.device)))


def profile(model: Model, found: Sequence[Answer]) -> tuple[int, ...]:
    """Return all layers, each time the one without which the answers' mean loss is lowest, after those before it."""
    order, left = list[int](), set(range(len(model.engine.parts.layers)))
    session = Session(model.engine)
    while left:
        losses = {one: sum(answer_loss(session, answer, frozenset([*order, one])) for answer in found)
                  for one in sorted(left)} if len(left) > 1 else {min(left): 0.0}
        order.append(min(losses, key=losses.__getitem__))
        left.remove(order[-1])
    session.close()
    return tuple(order)


@torch.inference_mode()
def report(gates: Gates, held_out: Sequence[Answer]) -> list[str]:
    """Return lines with the loss of held-out answers and the layers that they run."""
    whole, routed = gates.passed(held_out, hard=True, threshold=0.0), gates.passed(held_out, hard=True)
    shares = (routed.kept >= 0.5).double().mean(0)
    return [f"loss of held-out answers: {whole.loss.mean():.3f} with all layers, {routed.loss.mean():.3f} with those "
            f"that the routers choose, {shares.sum():.1f} of {len(shares)}",
            "prompts whose answers run each layer: " + " ".join(f"{share:.2f}" for share in shares.tolist())]


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer, train, report and save; the exit code is 2 when the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m strategies.tools.first_train",
                                     description="Train the routers of the strategy first.")
    parser.add_argument("--model", default=nano.NAMES[0], help="nano, a folder or a hub id")
    parser.add_argument("--task", action="append", default=[], help="task with the prompts; repeatable [nano's corpus]")
    parser.add_argument("--limit", type=int, default=50, help="prompts of a task, or of each kind of nano's corpus")
    parser.add_argument("--new", type=int, default=48, help="maximum tokens of an answer")
    parser.add_argument("--steps", type=int, default=200, help="batches of 8 answers")
    parser.add_argument("--weight", type=float, default=0.01, help="weight of the layers that run in the loss")
    parser.add_argument("--tune", type=Path, help="new folder for a model that is trained after its routers")
    parser.add_argument("--seed", type=int, default=0, help="of answers and batches")
    parser.add_argument("--dtype", default=None, help="float32, bfloat16 or float16")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, …")
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    try:
        o = parser.parse_args(arguments)
        if low := next((name for name in ("limit", "new", "steps") if getattr(o, name) < 1), None):
            raise UserError(f"--{low} must be at least 1, not {getattr(o, low)}.")
        if o.tune and o.tune.exists():
            raise UserError(f"{o.tune} exists: give --tune a new folder for the model.")
        run(o, RunConfig(model=o.model, tasks=tuple(o.task), limit=o.limit, dtype=o.dtype, seed=o.seed,
                         device=find_device(o.device)))
    except (UserError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


def run(o: argparse.Namespace, config: RunConfig) -> None:
    """Train with the options of the command."""
    say = partial(print, file=sys.stderr, flush=True)
    model = load_target(config)
    if config.tasks:
        asked = prompts.of_tasks(model, config)
    elif model.name in nano.NAMES:
        asked = prompts.of_nano(model, "train", o.limit)
    else:
        raise UserError(f"Which prompts should '{model.name}' answer? Give a task with --task.")
    asked = [prompt for prompt in asked if len(prompt) + o.new <= model.engine.max_len]
    found = [one for one in answers(model, asked, o.new, o.seed) if len(one.tokens) > 1]
    held_out = found[::HELD_OUT][:MOST]
    training = [one for place, one in enumerate(found) if place % HELD_OUT or place // HELD_OUT >= MOST]
    if len(training) < HELD_OUT:
        raise UserError(f"{len(found)} answers are too few to train routers; give more prompts.")
    say(f"{len(training)} answers, {len(held_out)} held out")
    gates = train(model, training, o.steps, o.weight, say, seed=o.seed, tune_steps=o.steps if o.tune else 0)
    if o.tune:
        model.engine.model.save_pretrained(o.tune)
        model.tokenizer.save_pretrained(o.tune)
        model = load_target(RunConfig(model=str(o.tune), dtype=o.dtype, device=config.device))
        gates = gates.over(TargetParts.of(model.engine))  # the engine before may have copies of its old weights
    order = profile(model, held_out)
    Routers(gates.weight, gates.bias, order, fingerprint(model.engine.model, rounded=True)).save(o.out)
    print(*report(gates, held_out), f"layers from the least needed on: {' '.join(map(str, order))}", sep="\n")


if __name__ == "__main__":
    sys.exit(main())
