"""Trains a head from start to end: the model, its answers, the network, and the folder that holds it."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from harness import nano
from harness.engine.hooks import HIDDEN
from harness.errors import UserError
from harness.heads.network import Network, TargetParts, settings_of
from harness.laboratory import corpus, prompts
from harness.laboratory.corpus import Corpus
from harness.laboratory.training import Point, train
from harness.laboratory.tuning import TWO_STAGE, Tuned, Tuning
from harness.models import trained_head
from harness.models.encoder_decoder import refuse_encoder
from harness.models.loading import Model, fingerprint
from harness.models.trained_head import Card
from harness.plugins.spec import Spec
from harness.run.loading import find_device, load_target
from harness.store.config import RunConfig

NANO_PROBLEMS, NANO_HELD_OUT = 250, 30  # of each kind


def train_head(head: str, config: RunConfig, steps: int, rate: float, output: Path | None, budget: int, licence: str,
               say: Callable[[str], None], tell: Callable[[Point], None], tuning: Tuning | None = None) -> Path:
    """Train `head`, the spec of a network, and return its folder; raises `UserError` for anything that cannot be used.

    `budget` is the number of bytes that the hidden states of one layer may take. With `tuning`, the model is trained,
    too, and the head belongs to the tuned one.
    """
    if tuning and tuning.folder.exists():
        raise UserError(f"{tuning.folder} exists: give --tune a new folder for the model.")
    spec = Spec.parse(head)
    kind = trained_head.network_of(spec.name)
    settings = settings_of(kind, spec.stages[-1].knobs)
    config = replace(config, device=find_device(config.device))
    model = load_target(config)
    refuse_encoder(config.model, model.engine.model.config)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = kind(TargetParts.of(model.engine), settings).to(model.engine.device)
        joint = Tuned(network) if tuning else None
    folder = output or Path("heads") / spec.name
    data, held_out, origin = answers(config, model, network, folder.parent / "answers", budget, say)
    parameters = sum(weight.numel() for weight in network.parameters())
    say(f"{spec.name}: {parameters:,} parameters, {len(data):,} answers, {len(held_out):,} held out")
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"training-{short_hash([str(spec), steps, config.seed, rate, origin])}.pt"
    learn = partial(train, data=data, held_out=held_out, steps=steps, seed=config.seed, rate=rate, tell=tell)
    if tuning and joint:
        points, model, tuned = tune(model, joint, learn, held_out, kept, tuning, config)
    else:
        points, tuned = learn(network, kept=kept), {}
    facts = {"steps": steps, "seed": config.seed, "tasks": list(config.tasks), "answers": len(data),
             "seconds": round(points[-1].seconds), "loss": round(points[-1].loss, 4)} | tuned
    card = Card(kind=spec.name, target=model.name, fingerprint=fingerprint(model.engine.model, rounded=True),
                hidden=network.target.hidden, vocab=network.target.vocab, settings=vars(settings),
                parameters=parameters, licence=licence, ranks=points[-1].ranks, trained=facts)
    trained_head.save(folder, network, card)
    for file in folder.glob(f"{kept.stem}*.pt"):
        file.unlink()
    return folder


def tune(model: Model, joint: Tuned, learn: Callable[..., list[Point]], held_out: Corpus, kept: Path,
         tuning: Tuning, config: RunConfig) -> tuple[list[Point], Model, dict[str, Any]]:
    """Train a head and its model, write the model, and return the points, the model as read back, and what changed."""
    before = joint.perplexity(held_out)
    if tuning.schedule == TWO_STAGE:
        learn(joint.network, kept=kept)
    points = learn(joint, kept=kept.with_stem(f"{kept.stem}-{tuning.schedule}"),
                   objective=partial(joint.objective, tuning.schedule))
    after = joint.perplexity(held_out)
    joint.adapters.merge()
    model.engine.model.save_pretrained(tuning.folder)
    model.tokenizer.save_pretrained(tuning.folder)
    facts = {"tuned": model.name, "schedule": tuning.schedule,
             "perplexity before and after": [round(before, 4), round(after, 4)]}
    return points, load_target(replace(config, model=str(tuning.folder))), facts


def answers(config: RunConfig, model: Model, network: Network, folder: Path, budget: int, say: Callable[[str], None]
            ) -> tuple[Corpus, Corpus, str]:
    """Return the model's answers for training, those that are held out, and their identity; kept in `folder`.

    Each has the hidden states that the network reads.
    """
    if config.tasks:
        asked, held_out = prompts.parted(prompts.of_tasks(model, config))
    elif model.name in nano.NAMES:
        asked, held_out = (prompts.of_nano(model, "train", NANO_PROBLEMS), prompts.of_nano(model, "dev", NANO_HELD_OUT))
    else:
        raise UserError(f"Which prompts should '{model.name}' answer? Give a task with -t, or your own with "
                        "-t task_file:file=FILE.")
    new = config.max_new_tokens or 192
    origin = short_hash([model.fingerprint, model.text_identity, new, config.seed, budget, asked, held_out])
    found, room = list[Corpus](), budget // (2 * network.target.hidden)  # tokens
    for name, wanted, share in (("train", asked, 0.9), ("held-out", held_out, 0.1)):
        if not (place := folder / f"{name}-{origin}").exists():
            say(f"{model.name} answers {len(wanted):,} prompts ({name}) …")
            part = place.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)  # of a call that was stopped
            corpus.write(part, corpus.answers(model, wanted, new, config.seed), int(share * room))
            part.rename(place)
        corpus.record(place, model, dict.fromkeys([HIDDEN, *network.reads]))
        found.append(corpus.read(place, network.reads))
    return found[0], found[1], origin


def short_hash(values: Sequence[Any]) -> str:
    """Return a short hash of values that JSON can hold."""
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:12]
