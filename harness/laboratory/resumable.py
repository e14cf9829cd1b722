"""A training that reports as it goes on, and goes on where it was stopped."""

import argparse
import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer

from harness import nano
from harness.errors import UserError
from harness.nano.training import WARM_UP, optimizers
from harness.store.files import replace_file

REPORT, CLIP = 100, 1.0  # steps; norm of the gradient


class Training(ABC):
    """The model, its optimizers and the curve of one training; the rate warms up and falls to 0 in a straight line.

    Weights that need no gradient stay as they are. After every `REPORT` steps all that is needed to go on is kept.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        torch.manual_seed(options.seed)
        self.options, self.file = options, options.out / "training.pt"
        self.tokenizer = AutoTokenizer.from_pretrained(nano.weights(nano.NANO))
        self.model = self.made()
        self.optimizers = optimizers(self.model, options.rate)
        self.curve, self.seconds = list[dict[str, float]](), 0.0
        self.step = self._resumed()

    @abstractmethod
    def made(self) -> Any:
        """Return the model as it is before the training."""

    @abstractmethod
    def prepare(self) -> None:
        """Get the data, from that of step `self.step` + 1 on."""

    @abstractmethod
    def gradients(self, step: int) -> float:
        """Add the gradients of a step to the weights, and return its mean loss."""

    @abstractmethod
    def held_out(self) -> dict[str, float]:
        """Return losses of held-out problems by kind."""

    @abstractmethod
    def save(self) -> None:
        """Write the model, and end with `finish`."""

    def train(self) -> None:
        """Make the steps that are left."""
        self.prepare()
        recent, before, steps = float("nan"), time.monotonic() - self.seconds, self.options.steps
        for step in range(self.step + 1, steps + 1):
            rate = self.options.rate * min(1.0, step / WARM_UP) * (1 - (step - 1) / steps)
            for group in (group for one in self.optimizers for group in one.param_groups):
                group["lr"] = rate
            current = self.gradients(step)
            nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
            for one in self.optimizers:
                one.step()
                one.zero_grad()
            recent = current if recent != recent else 0.98 * recent + 0.02 * current
            if step % REPORT == 0 or step == steps:
                self.step, self.seconds = step, time.monotonic() - before
                with torch.no_grad():
                    losses = {name: round(value, 4) for name, value in self.held_out().items()}
                self.curve.append({"step": step, "seconds": round(self.seconds, 1), "train": round(recent, 4),
                                   **losses})
                print(self.curve[-1], flush=True)
                self._keep()

    def finish(self, **facts: object) -> None:
        """Write the curve and facts about the training, in place of what is needed to go on."""
        known = {"name": self.options.out.name, "seed": self.options.seed, "steps": self.options.steps,
                 "parameters": self.model.num_parameters(), **facts, "curve": self.curve}
        (self.options.out / "training.json").write_text(json.dumps(known, indent=1) + "\n")
        self.file.unlink(missing_ok=True)

    def _keep(self) -> None:
        file = BytesIO()
        torch.save({"model": {name: one for name, one in self.model.named_parameters() if one.requires_grad},
                    "optimizers": [one.state_dict() for one in self.optimizers], "curve": self.curve,
                    "step": self.step, "seconds": self.seconds}, file)
        replace_file(self.file, file.getvalue())

    def _resumed(self) -> int:
        """Load what `_keep` wrote, if it did, and return the number of steps made."""
        if not self.file.exists():
            return 0
        found: dict[str, Any] = torch.load(self.file, weights_only=True)
        try:
            self.model.load_state_dict(found["model"], strict=False)
            for one, state in zip(self.optimizers, found["optimizers"], strict=True):
                one.load_state_dict(state)
        except (KeyError, RuntimeError, ValueError) as error:  # of another shape
            raise UserError(f"{self.file} is of the training of another model; give another --out.") from error
        self.curve, self.seconds = found["curve"], found["seconds"]
        return int(found["step"])


def parser(description: str | None, steps: int, rate: float) -> argparse.ArgumentParser:
    """Return the parser of a training command, with the options that all have."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--out", type=Path, required=True, help="folder of the model")
    made.add_argument("--steps", type=int, default=steps)
    made.add_argument("--rate", type=float, default=rate, help="peak learning rate")
    made.add_argument("--seed", type=int, default=0)
    return made


def run(kind: type[Training], options: argparse.ArgumentParser, arguments: Sequence[str] | None, **more: object
        ) -> None:
    """Read the command line, or `arguments`, train and write the model; `more` are settings without an option."""
    found = options.parse_args(arguments)
    for name in ("steps", "rate"):
        if getattr(found, name) <= 0:
            options.error(f"--{name} must be above 0, not {getattr(found, name)}")
    vars(found).update(more)
    found.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    training = kind(found)
    training.train()
    training.save()
