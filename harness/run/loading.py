"""Loads the models of a run, and sets device, precision and the memory of KV caches."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from harness import nano
from harness.engine.cache import free_bytes
from harness.engine.engine import Engine
from harness.errors import UserError
from harness.models.encoder_decoder import refuse_encoder
from harness.models.images import refuse_images, same_words
from harness.models.loading import Model, find, load, outline
from harness.models.translation import Translation
from harness.models.vocabulary import share
from harness.plugins.strategy import Strategy
from harness.store.config import RunConfig, named_value


def find_device(name: str) -> str:
    """Return the device to use; raises `UserError` when it cannot be used."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"The device '{name}' cannot be used here ({str(error).splitlines()[0]}); "
                        "choose cpu, or leave --device out.") from None
    return name


def model_dtype(config: RunConfig) -> str:
    """Return the precision of the models: by default bfloat16 on a GPU and float32 on a CPU."""
    return config.dtype or ("bfloat16" if config.device.startswith("cuda") else "float32")


def reference_device(config: RunConfig) -> str:
    """Return the device of the reference model: the CPU when another backend owns the GPU."""
    return config.device if config.backend == "transformers" else "cpu"


def check_models(config: RunConfig) -> dict[str, Any]:
    """Return the configurations of the models by name, before weights are loaded or data sets downloaded.

    Raises `UserError` for a model that does not exist, or that has an encoder where only others can run.
    """
    local = () if config.backend == "openai" else (config.model, config.draft)
    found = {name: find(name)[1] for name in (*local, config.scorer) if name}
    for name, of_model in found.items():
        if config.backend != "transformers" or name == config.scorer:
            refuse_encoder(name, of_model)
            refuse_images(name, of_model, "give one for text")
        if config.heads:
            refuse_encoder(name, of_model, "leave --head out")
            refuse_images(name, of_model, "leave --head out")
    return found


def load_target(config: RunConfig) -> Model:
    """Load the target model; without weights if a server runs it, unless it is embedded."""
    arguments = dict(named_value("--template-arg", text) for text in config.template_args)
    if config.backend != "openai":
        model = load(config.model, dtype=model_dtype(config), device=reference_device(config),
                     device_map=config.device_map, tokenizer=config.tokenizer, compiled=config.compile,
                     threads=config.threads or 0, rope=config.rope)
        return replace(model, template_args=arguments)
    name = config.tokenizer or config.model
    refuse_encoder(name, find(name)[1])
    model = load(name, device="cpu") if name in nano.NAMES else outline(name)
    return replace(model, name=config.model, template_args=arguments)


def draft_name(config: RunConfig) -> str | None:
    """Return the draft model: nano and nano-long have one of their own."""
    return config.draft or (nano.DRAFT if config.model in (nano.NANO, nano.LONG) else None)


def used_draft(config: RunConfig, strategies: Sequence[Strategy]) -> str | None:
    """Return the draft model if one of the strategies runs it here, else None."""
    drafts = config.backend != "openai" and any("draft" in strategy.needs for strategy in strategies)
    return draft_name(config) if drafts else None


def load_draft(config: RunConfig, target: Model, strategies: Sequence[Strategy]) -> Model | None:
    """Load the draft model if a strategy needs it and one is given, to the device of the target's inputs.

    Raises `UserError` for one with another vocabulary, unless all of these strategies translate; then it has its own
    tokenizer, whatever `config.tokenizer` is.
    """
    name = used_draft(config, strategies)
    if name is None:
        return None
    translates = all(strategy.translates for strategy in strategies if "draft" in strategy.needs)
    draft = load(name, dtype=model_dtype(config), device=str(target.engine.device),
                 tokenizer=None if translates else config.tokenizer, compiled=config.compile,
                 threads=torch.get_num_threads())
    if ("source" in draft.engine.offers) != ("source" in target.engine.offers):
        raise UserError(f"Only one of '{name}' and '{target.name}' has an encoder; give a draft model of its kind.")
    if "images" in draft.engine.offers:
        raise UserError(f"'{name}' reads images, and a draft model cannot; give one for text.")
    draft.engine.blind = "images" in target.engine.offers
    if draft.tokenizer.get_vocab() == target.tokenizer.get_vocab() or (
            draft.engine.blind and same_words(target.tokenizer, draft.tokenizer, target.eos)):
        share(target.engine, draft.engine)
    elif translates and "prompt" in target.engine.offers:
        draft.engine.translation = Translation(target.tokenizer, draft.tokenizer, (target.vocab, draft.vocab),
                                               target.engine.device)
    else:
        raise UserError(f"The draft model '{name}' and '{target.name}' do not share a vocabulary; "
                        "give a draft model of the same family.")
    return draft


def load_heads(config: RunConfig, target: Model, strategies: Sequence[Strategy]) -> None:
    """Load the trained heads of the target into its engine, and those of nano that `strategies` need.

    Raises `UserError` for two of a kind, or for another backend.
    """
    if config.backend != "transformers":
        if config.heads:
            raise UserError(f"Heads draft on transformers only: leave --head or --backend {config.backend} out.")
        return
    kinds = {strategy.head_kind for strategy in strategies} if config.model == nano.NAMES[0] else set[str]()
    shipped = {folder.name: name for name, folder in nano.heads().items() if folder.name in kinds}
    if not config.heads and not shipped:
        return
    from harness.models.trained_head import load as load_head

    for name in config.heads:
        head = load_head(name, target)
        if other := target.engine.heads.get(head.card.kind):
            raise UserError(f"{other.name} and {name} are both heads of the kind '{head.card.kind}': give one of them.")
        target.engine.heads[head.card.kind] = head
    for kind in shipped.keys() - target.engine.heads.keys():
        target.engine.heads[kind] = load_head(shipped[kind], target)


def limit_caches(config: RunConfig, engines: Sequence[Engine]) -> None:
    """Divide the memory for KV caches among the models, in proportion to their bytes per token.

    On several devices, all layers have as many slots as the fullest device has room for.
    """
    sizes = [engine.cache.slot_bytes() for engine in engines]
    if not sizes:
        return
    if config.cache_gb:
        total = int(config.cache_gb * 1e9)
    else:
        each = sum((engine.cache.slot_bytes_by_device() for engine in engines), Counter[torch.device]())
        total = min(free_bytes(str(device)) // 2 * sum(sizes) // size for device, size in each.items())
    for engine, size in zip(engines, sizes, strict=True):
        engine.cache.budget = total * size // sum(sizes)
