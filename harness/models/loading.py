"""Models of the transformers library: finding, loading and checking them."""

import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from harness import nano
from harness.engine.cache import free_bytes
from harness.engine.engine import Engine
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import UserError, first_sentence
from harness.models import gguf, spread
from harness.models.attention import use_fast_attention
from harness.models.canvas_check import canvas_rows
from harness.models.encoder_decoder import auto_class, make_engine, refuse_encoder, tree_and_plain
from harness.models.images import ImageReader, check_class, image_reader, image_rows, refuse_images
from harness.models.products import SMALL, use_fast_products
from harness.models.recurrent import refuse_state
from harness.models.rope import Scaling
from harness.models.size import check_memory, max_len, meta_model
from harness.models.source import Source, check_dtype, source, split_dtype
from harness.models.tokenizer import check_vocabulary, eos_ids, load_tokenizer, text_identity
from harness.nano import change, packed

NOT_IN_FINGERPRINT = {"_name_or_path", "transformers_version", "dtype", "torch_dtype"}  # keys of a configuration
THREADS = torch.get_num_threads()
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}


@dataclass(frozen=True)
class Model:
    """A loaded model: its engine, its tokenizer, and its identity.

    `fingerprint` is the identity of the weights, `text_identity` that of tokenizer, chat template and EOS. `products`
    names the library that multiplies with the weights of each shape, where that was measured. `template_args` are
    variables of the chat template. `images` is how it reads those of a prompt, if it does.
    """

    name: str
    engine: Engine
    tokenizer: Any
    eos: frozenset[int]
    fingerprint: str
    text_identity: str = ""
    products: Mapping[str, str] = field(default_factory=dict)
    template_args: Mapping[str, Any] = field(default_factory=dict)
    images: ImageReader | None = None

    @property
    def vocab(self) -> int:
        """Return the number of logits."""
        return self.engine.vocab

    @property
    def has_weights(self) -> bool:
        """Whether the weights are loaded, so that likelihoods can be computed."""
        return bool(self.engine.device.type != "meta")

    @property
    def parameters(self) -> int:
        """Return the number of parameters."""
        return sum(weight.numel() for weight in self.engine.model.parameters())


def torch_dtype(name: str) -> torch.dtype:
    """Return a precision by its name; raises `UserError` for another name."""
    check_dtype(name)
    precision: torch.dtype = getattr(torch, name)
    return precision


def load(name: str, *, dtype: str = "float32", device: str = "cpu", device_map: str = "",
         tokenizer: str | None = None, compiled: bool = False, threads: int = 0, rope: str = "") -> Model:
    """Load an embedded model, a folder, a .gguf file or a hub id; raises `UserError` if it cannot be found or used.

    `name` may end in its precision, such as `:bfloat16`, which then goes before `dtype`. `device_map` spreads its
    layers over all GPUs if `device` is "cuda" (`harness.models.spread`). `compiled` runs its forwards
    through `torch.compile`, which is slow at the first forward of each shape. Torch uses `threads` from then on; 0
    means one for a small model and torch's default for others. `rope` scales its positions (`harness.models.rope`).
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # the error below summarises its retries
    name, own = split_dtype(name)
    precision, scaling = torch_dtype(own or dtype), Scaling.parse(rope) if rope else None
    if compiled and not (device.startswith("cuda") or any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++")))):
        raise UserError("--compile needs a C++ compiler; install one such as g++, or leave --compile out.")
    place, config = find(name)
    for option, given in {"--device-map": device_map, "--compile": compiled, "--rope": rope}.items():
        if given:
            refuse_encoder(name, config, f"leave {option} out")
            refuse_images(name, config, f"leave {option} out")
        if given and option != "--rope":
            refuse_state(name, meta_model(config, precision), f"leave {option} out")
    room = spread.free_of_each(device) if device_map else {device: free_bytes(device)}
    try:
        if name not in nano.NAMES:
            check_memory(name, config, precision, room)
        model = _load_weights(place, config, precision, device_map and spread.placed(
            meta_model(config, precision), device_map, room))
    except UserError:
        raise
    except Exception as error:  # the library raises many kinds of errors for a folder without a model
        raise UserError(f"The model '{name}' cannot be loaded: {first_sentence(error)}.") from error
    words = load_tokenizer(tokenizer, gguf.kept(source(tokenizer))) if tokenizer else load_tokenizer(name, place)
    check_vocabulary(name, model, words)
    if place.gguf and not tokenizer:
        gguf.keep(place, model, words)
    if device_map:
        spread.join(model)
    else:
        model = model.to(device)
    identity, longest = fingerprint(model), max_len(model)
    if scaling:
        identity, longest = hash_of({"weights": identity, "rope": str(scaling)}, {}), scaling.apply(model)
    torch.set_num_threads(threads or usual_threads(model))
    use_fast_attention(model)
    products = use_fast_products(model, both=compiled)
    engine = make_engine(model, longest)
    check(engine)
    if compiled:
        engine.compile()
        check(engine)
    eos, images = eos_ids(model, words), image_reader(name, place, engine, words)
    engine.clear_counts()
    text = text_identity(words, eos)
    if images:
        text = hash_of({"text": text, "images": images.processor.to_dict()}, {})
    return Model(name, engine, words, eos, identity, text, products, images=images)


def usual_threads(model: Any) -> int:
    """Return the number of threads for a model: one if it is small, else torch's default.

    A second thread gains a small model little, and costs it much when another process uses its core.
    """
    return 1 if sum(weight.numel() for weight in model.parameters()) < SMALL else THREADS


def outline(name: str) -> Model:
    """Load the architecture and tokenizer of a model that another backend runs, without weights.

    Raises `UserError` when the folder or hub id has no configuration or no tokenizer.
    """
    from transformers import GenerationConfig

    place, config = find(name)
    model = meta_model(config)
    with contextlib.suppress(OSError):  # optional: not every model has a generation configuration
        model.generation_config = GenerationConfig.from_pretrained(place.place)
    words = load_tokenizer(name, place)
    eos = eos_ids(model, words)
    return Model(name, make_engine(model, max_len(model)), words, eos, "", text_identity(words, eos))


def find(name: str) -> tuple[Source, Any]:
    """Return where a model is, and its configuration; raises `UserError` unless it exists."""
    from transformers import AutoConfig

    place = gguf.kept(source(split_dtype(name)[0]))
    try:
        config = AutoConfig.from_pretrained(place.place, **place.options, **place.config)
    except Exception as error:
        raise UserError(f"The model '{name}' cannot be loaded: {first_sentence(error)}.") from error
    check_class(name, config)
    return place, config


def _load_weights(place: Source, config: Any, dtype: torch.dtype, devices: Mapping[str, str] | str = "") -> Any:
    loader = auto_class(config)
    if place.packed:
        return _unpacked(loader, config, Path(place.place), dtype)
    name = place.gguf or place.place
    options: dict[str, Any] = {"dtype": dtype, "output_loading_info": True, **place.options, **place.config}
    if devices:
        options["device_map"] = devices
    with gguf.without_bar() if place.gguf else contextlib.nullcontext():
        try:
            model, info = loader.from_pretrained(place.place, attn_implementation="sdpa", **options)
        except ValueError as error:
            if "scaled_dot_product_attention" not in str(error):
                raise
            model, info = loader.from_pretrained(place.place, attn_implementation="eager", **options)
    _refuse_missing(name, sorted(info["missing_keys"]))
    if place.gguf:
        gguf.as_plain(model)
    if place.change:
        change.add(model, place.change)
    return model.eval()


def _unpacked(loader: Any, config: Any, folder: Path, dtype: torch.dtype) -> Any:
    model = loader.from_config(config, dtype=dtype, attn_implementation="sdpa")
    weights = packed.complete(packed.load(folder), config)
    needed = {name for name, weight in model.named_parameters() if weight.requires_grad}
    _refuse_missing(str(folder), sorted(needed - weights.keys()))
    model.load_state_dict(weights, strict=False)
    return model.eval()


def _refuse_missing(name: str, missing: Sequence[str]) -> None:
    if missing:
        raise UserError(f"{name} lacks {len(missing)} of the model's weights ({missing[0]} for one), "
                        "which would be random; give a complete model.")


def check(engine: Engine) -> None:
    """Compare forwards through the slot cache with plain forwards; raises `UserError` if they differ.

    They are those of a tree, or those of a canvas if the model fills masks.
    """
    model = engine.model
    read = (canvas_rows if engine.canvas else tree_and_plain if "source" in engine.offers else
            image_rows if "images" in engine.offers else _tree_and_plain)
    try:
        with engine.windows.of_size(3):  # so that the check reaches beyond them
            rows, plain = read(engine)
    except Exception as error:
        raise UserError(f"{type(model).__name__} cannot run with the KV cache of decodebench "
                        f"({first_sentence(error)}); give a model whose layers all use attention.") from error
    worst = float((rows - plain).abs().max())
    scale = max(1.0, float(rows.abs().max()))
    if not worst <= TOLERANCE[model.dtype] * scale:
        masks = "the masks of a canvas" if engine.canvas else "tree masks"
        raise UserError(f"{type(model).__name__} does not follow {masks}: its logits are off by {worst:.2g}, "
                        "so no result could be trusted; give another model.")
    engine.clear_counts()


def _tree_and_plain(engine: Engine) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits (4, V) of a tree below a prompt, and those of plain forwards."""
    prompt = [token % engine.vocab for token in (5, 11, 3, 7)]
    tree = TokenTree(tuple(token % engine.vocab for token in (2, 9, 4)), (-1, 0, -1))
    session = Session(engine)
    session.follow(prompt)
    rows = session.read(tree).logits
    session.close()
    paths = [[], [tree.tokens[0]], list(tree.tokens[:2]), [tree.tokens[2]]]
    return rows, torch.stack([_plain(engine, prompt + path) for path in paths])


@torch.inference_mode()
def _plain(engine: Engine, tokens: Sequence[int]) -> torch.Tensor:
    """Return the logits (V,) after `tokens` from one forward without cache."""
    ids = torch.tensor([list(tokens)], device=engine.device)
    positions = torch.arange(len(tokens), device=engine.device)[None]
    logits: torch.Tensor = engine.model(input_ids=ids, position_ids=positions, use_cache=False).logits[0, -1].float()
    return logits


def fingerprint(model: Any, rounded: bool = False) -> str:
    """Return a short hash of the configuration and of a thousand numbers of every weight.

    The hash does not depend on the source, the version of transformers or the machine; a sum of weights would, because
    it rounds. With `rounded`, it is the same in float32 and in bfloat16.
    """
    config = {key: value for key, value in model.config.to_diff_dict().items() if key not in NOT_IN_FINGERPRINT}
    return hash_of(config, model.state_dict(), rounded)


def hash_of(config: Mapping[str, Any], weights: Mapping[str, torch.Tensor], rounded: bool = False) -> str:
    """Return a short hash of settings and of a thousand numbers of every weight, `rounded` to bfloat16 if wanted."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, weight in sorted(weights.items()):
        flat = weight.detach().flatten()
        some = flat[:: max(1, flat.numel() // 1024)]
        digest.update(f"{name}{tuple(weight.shape)}".encode())
        digest.update((some.bfloat16() if rounded else some).double().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
