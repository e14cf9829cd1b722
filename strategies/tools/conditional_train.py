"""Train the classifier of `conditional_beam`, which predicts whether a prefix becomes a degenerate text.

`python -m strategies.tools.conditional_train --model nano --out FILE.npz` lets the model continue prompts at several
temperatures, labels every prefix of a text with whether the whole text is degenerate, fits a logistic regression on the
hidden states after the prefixes, and prints its quality on held-out prompts.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from harness.decoding.accept import at
from harness.decoding.loop import one_by_one
from harness.engine.batching import run_batched
from harness.engine.engine import Engine
from harness.engine.logit_warps import temperature
from harness.engine.random_stream import PhiloxStream
from harness.engine.session import Session
from harness.errors import UserError
from harness.models.prompts import encode
from harness.plugins.strategy import Request
from harness.run.plan import Plan, make
from harness.store.config import RunConfig
from strategies.parts.conditional import Attribute, Trained

CONCURRENCY = 16  # prompts continued in one batch
Text = tuple[list[int], Tensor]
"""Token ids, and the hidden states (N, D) after all of them but the last."""


@dataclass
class Examples:
    """Hidden states (N, D) after prefixes, whether their texts have the attribute (N,), and their prompts (N,)."""

    hidden: np.ndarray
    good: np.ndarray
    prompt: np.ndarray


def sampled(made: Plan, attribute: Attribute, temperatures: Sequence[float], new: int, skip: int = 0) -> Examples:
    """Return all prefixes of one text per temperature and prompt of the plan's tasks, without the first `skip` of each.

    A text has at most `new` tokens.
    """
    engine, eos, jobs, numbers = made.target.engine, made.target.eos, list[Callable[[], Text]](), list[int]()
    for number, (task, example) in enumerate((task, one) for task, examples in made.tasks for one in examples[skip:]):
        prompt = tuple(encode(made.target, task.prompt(example, []))[-max(1, engine.max_len - new):])
        for value in temperatures:
            request = Request(prompt, new, PhiloxStream("conditional_beam", task.spec(), example.id, value), eos)
            jobs.append(partial(_continued, engine, request, value))
            numbers.append(number)
    hidden, good, prompts = list[Tensor](), list[bool](), list[int]()
    for number, text in zip(numbers, run_batched([engine], jobs, CONCURRENCY), strict=True):
        if isinstance(text, Exception):
            raise text
        tokens, states = text
        hidden.append(states)
        good += [attribute.holds(tokens[:-1] if tokens[-1] in eos else tokens)] * len(states)
        prompts += [number] * len(states)
    return Examples(torch.cat(hidden).numpy(), np.array(good), np.array(prompts))


def _continued(engine: Engine, request: Request, value: float) -> Text:
    session, tokens = Session(engine, remember=("hidden",)), list[int]()
    for step in one_by_one(session, at(value), request, temperature(value)):
        tokens += step
        if request.ends(tokens) or len(tokens) >= request.max_new_tokens:
            break
    states = session.memory[len(request.prompt):].float().cpu().clone()  # nothing follows the last token
    session.close()
    return tokens, states


def fitted(examples: Examples, attribute: Attribute) -> Trained:
    """Fit the classifier; raises `UserError` when all texts are good or all degenerate."""
    from sklearn.linear_model import LogisticRegression

    if len(set(examples.good.tolist())) < 2:
        raise UserError("All texts are " + ("good" if examples.good.all() else "degenerate")
                        + ": sample at other temperatures, or more of them.")
    mean, scale = examples.hidden.mean(0), examples.hidden.std(0) + 1e-6
    model = LogisticRegression(C=0.01, max_iter=500).fit((examples.hidden - mean) / scale, examples.good)
    weight = model.coef_[0] / scale
    return Trained(attribute, torch.from_numpy(weight).double(), float(model.intercept_[0] - weight @ mean))


def quality(trained: Trained, examples: Examples) -> list[str]:
    """Return lines with the share of good prefixes, the area under the ROC curve, and the Brier score."""
    from sklearn.metrics import brier_score_loss, roc_auc_score

    probs = np.exp(trained.log_p([], torch.from_numpy(examples.hidden)))
    share = float(examples.good.mean())
    return [f"{len(examples.good)} prefixes of prompts not seen in training, {share:.3f} of them of good texts",
            f"area under the ROC curve {roc_auc_score(examples.good, probs):.3f}",
            f"Brier score {brier_score_loss(examples.good, probs):.4f}; of the share alone {share * (1 - share):.4f}"]


def split(examples: Examples, held: int = 5) -> tuple[Examples, Examples]:
    """Split off the examples of every `held`-th prompt."""
    rest = examples.prompt % held == 0
    first, second = (Examples(examples.hidden[rows], examples.good[rows], examples.prompt[rows])
                     for rows in (~rest, rest))
    return first, second


def numbers(text: str) -> list[float]:
    """Return the numbers of `0-0.3-1`; raises `ValueError` for anything else."""
    return [float(value) for value in text.split("-")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Sample, train, evaluate and save; the exit code is 2 when the input is wrong."""
    parser = argparse.ArgumentParser(prog="python -m strategies.tools.conditional_train",
                                     description="Train the classifier of the strategy conditional_beam.")
    parser.add_argument("--model", default="nano", help="nano, a folder or a hub id")
    parser.add_argument("--task", action="append", default=[], help="task, repeatable; default: the embedded")
    parser.add_argument("--limit", type=int, default=100, help="examples of a task")
    parser.add_argument("--skip", type=int, default=0, help="first examples of a task to skip")
    parser.add_argument("--temperatures", type=numbers, default="0-0.3-0.6-1", help="temperatures of the texts")
    parser.add_argument("--new", type=int, default=128, help="maximum tokens of a text")
    parser.add_argument("--ngram", type=int, default=4, help="n-gram size that counts as a repeat")
    parser.add_argument("--repeated", type=float, default=0.2, help="share of repeats above which a text is degenerate")
    parser.add_argument("--dtype", default="float32", help="float32, bfloat16 or float16")
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1, …")
    parser.add_argument("--out", type=Path, required=True, help="the .npz to write")
    try:
        o = parser.parse_args(arguments)
        with torch.inference_mode():
            attribute = Attribute(o.ngram, o.repeated)
            made = make(RunConfig(model=o.model, strategies=("greedy",), tasks=tuple(o.task), limit=o.skip + o.limit,
                                  dtype=o.dtype, device=o.device), "")
            training, held_out = split(sampled(made, attribute, o.temperatures, o.new, o.skip))
            trained = fitted(training, attribute)
            trained.save(o.out)
            print(*quality(trained, held_out), sep="\n")
    except (UserError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
