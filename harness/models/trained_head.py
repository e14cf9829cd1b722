"""A trained head on disk: a card that says what it is and which model it belongs to, and its weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as packed

from harness import nano
from harness.errors import UserError, first_sentence
from harness.heads.layer import Shape
from harness.heads.network import Network, TargetParts, settings_of
from harness.models import public_heads
from harness.models.loading import Model, fingerprint, hash_of
from harness.models.products import use_fast_products
from harness.plugins.registry import STRATEGIES
from harness.store.files import replace_file
from harness.store.jsonl import first
from harness.store.schema import HeadEntry

CARD, WEIGHTS = "head.json", "head.safetensors"


class Card(BaseModel):
    """What is written beside the weights of a head, of which `parameters` are trained.

    `kind` is the name of its strategy; `target` and `fingerprint` (of rounded weights) are those of its model, which
    has hidden states of `hidden` numbers and `vocab` logits. `ranks[i][j]` is the share of tokens at depth i that were
    its j-th candidate on held-out answers, when all candidates before it were right. `trained` says how.
    """

    model_config = ConfigDict(extra="forbid")

    kind: str
    target: str
    licence: str = ""
    parameters: int = 0
    fingerprint: str
    hidden: int
    vocab: int
    settings: dict[str, bool | int | float | str] = {}
    ranks: Annotated[list[Annotated[list[float], Field(min_length=1)]], Field(min_length=1)]
    trained: dict[str, Any] = {}


@dataclass(frozen=True)
class Head:
    """A loaded head: where it came from, its card, its network, and the identity of its weights."""

    name: str
    card: Card
    network: Network
    fingerprint: str

    @property
    def entry(self) -> HeadEntry:
        """What a run's manifest tells of it."""
        return HeadEntry(name=self.name, kind=self.card.kind, right=[row[0] for row in self.card.ranks],
                         parameters=sum(weight.numel() for weight in self.network.parameters()))


def save(folder: Path, network: Network, card: Card) -> None:
    """Write the weights of a head in bfloat16 (token ids as they are), and then its card."""
    replace_file(folder / WEIGHTS, packed({name: _rounded(weight).contiguous().cpu()
                                           for name, weight in network.state_dict().items()}))
    replace_file(folder / CARD, card.model_dump_json(indent=1) + "\n")


def _rounded(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().to(torch.bfloat16) if weight.is_floating_point() else weight


def load(name: str, model: Model) -> Head:
    """Load a head of `model` from a folder or a hub id; raises `UserError` if it is broken or of another model."""
    folder = _place(name)
    if not (folder / CARD).exists():
        return _published(name, folder, model)
    try:
        card = Card.model_validate_json((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The folder {name} holds no head: {CARD} cannot be read.") from error
    except ValidationError as error:
        raise UserError(f"{folder / CARD} is no card of a head ({first(error)}).") from error
    if card.fingerprint != fingerprint(model.engine.model, rounded=True):
        raise UserError(f"The head {name} was trained for '{card.target}' with other weights than those of "
                        f"'{model.name}'; give one of this model, or train one with "
                        f"'decodebench train-head {card.kind} -m {model.name}'.")
    network = build(card, model)
    weights = _weights(folder / WEIGHTS)
    _check(name, network, weights)
    if len(card.ranks) != network.depth:
        raise UserError(f"The card of the head {name} has ranks of {len(card.ranks)} depths, and its network "
                        f"{network.depth}.")
    _fill(network, weights, model)
    return Head(name, card, network, hash_of(card.settings, weights))


def _published(name: str, folder: Path, model: Model) -> Head:
    """Load a head that others have published, whose ranks are assumed."""
    layout, found = public_heads.read(folder, TargetParts.of(model.engine))
    settings, size = layout.settings(found), int(found.target.config.hidden_size if layout.own else found.target.hidden)
    card = Card(kind=layout.kind, target=model.name, fingerprint="", hidden=size, settings=settings,
                vocab=found.at("vocab_size") or found.target.vocab, ranks=[list(public_heads.ASSUMED)])
    network = build(card, model, found.target)
    weights = public_heads.complete(network, layout, found)
    _check(name, network, weights, f"'{model.name}'")
    _fill(network, weights, model)
    used = {"embedding": found.target.embedding.get_parameter("weight"), "head": found.target.head.weight}
    identity = hash_of(settings | {"sizes": str(Shape.of(found.target.config)) if layout.own else ""}, weights | used)
    return Head(name, card.model_copy(update={"ranks": card.ranks * network.depth}), network, identity)


def _fill(network: Network, weights: Mapping[str, torch.Tensor], model: Model) -> None:
    network.load_state_dict(weights)
    network.to(model.engine.device, model.engine.dtype).eval().requires_grad_(False)
    use_fast_products(network, both=True)  # some networks look up rows of their layers


def network_of(kind: str) -> type[Network]:
    """Return the network class of a kind of head; raises `UserError` for a strategy without a head of its own."""
    found = STRATEGIES.get(kind)
    if found.head_kind != kind:
        own = f"; it drafts with that of '{found.head_kind}'" if found.head_kind else ""
        raise UserError(f"The strategy '{kind}' has no trained head of its own{own}.")
    network: type[Network] = found.network  # type: ignore[attr-defined]  # every strategy with a head has one
    return network


def build(card: Card, model: Model, parts: TargetParts | None = None) -> Network:
    """Return the untrained network of a card for a model or `parts`; raises `UserError` if they do not fit."""
    kind, parts = network_of(card.kind), parts or TargetParts.of(model.engine)
    for what, wanted, found in (("hidden states of {} numbers", card.hidden, parts.hidden),
                                ("{} logits", card.vocab, parts.vocab)):
        if wanted != found:
            raise UserError(f"The head is for {what.format(wanted)}, but '{model.name}' has {found}.")
    return kind(parts, settings_of(kind, card.settings))


def _place(name: str) -> Path:
    """Return the folder of a head, after fetching it from the hub if there is no such folder."""
    if Path(name).is_dir() or name in nano.heads():
        return nano.heads().get(name, Path(name))
    if Path(name).is_absolute() or name.startswith((".", f"{nano.NAMES[0]}/")) or name.count("/") != 1:
        raise UserError(f"There is no head '{name}': give a folder with one, or a hub id.")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, allow_patterns=[CARD, WEIGHTS, public_heads.CONFIG]))
        for kind in () if (folder / CARD).exists() else public_heads.FILES:
            if not public_heads.files(folder):
                snapshot_download(name, allow_patterns=list(kind))
        return folder
    except Exception as error:  # the library raises many kinds of errors
        raise UserError(f"The head '{name}' cannot be fetched: {first_sentence(error)}.") from error


def _weights(path: Path) -> dict[str, torch.Tensor]:
    try:
        found: dict[str, torch.Tensor] = load_file(path)
        return found
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be read as weights: it is missing or was cut off.") from error


def _check(name: str, network: Network, weights: Mapping[str, torch.Tensor], other: str = "its card") -> None:
    """Raise `UserError` unless the weights have the names and shapes of the network."""
    wanted = {key: tuple(weight.shape) for key, weight in network.state_dict().items()}
    found = {key: tuple(weight.shape) for key, weight in weights.items()}
    if wanted != found:
        key = min(set(wanted.items()) ^ set(found.items()))[0]
        raise UserError(f"The weights of the head {name} do not fit {other}: {key} has the shape {found.get(key)}, "
                        f"not {wanted.get(key)}.")
