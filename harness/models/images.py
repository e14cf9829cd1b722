"""Models that read images: which classes load, how an image gets into a prompt, and their check."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from harness.engine.engine import Engine
from harness.engine.images import ImageEngine, Picture, image_tokens
from harness.engine.session import Session
from harness.engine.tree import TokenTree
from harness.errors import UserError, first_sentence
from harness.models.source import Source
from harness.models.tokenizer import special_ids
from harness.plugins.task import IMAGE, ImageFile

CLASS = "llava"
TOWERS = ("clip_vision_model", "siglip_vision_model")  # which give every image the same number of tokens
BOTH_WAYS = "lets the tokens of an image attend to later ones"
IN_SPACE = "gives the tokens of an image positions in space"
WAYS = {"gemma": BOTH_WAYS, "paligemma": BOTH_WAYS, "shieldgemma": BOTH_WAYS, "qwen": IN_SPACE, "glm": IN_SPACE}
READ = "give a model of the class LlavaForConditionalGeneration, such as llava-hf/llava-1.5-7b-hf"


def reads_images(config: Any) -> bool:
    """Return whether a configuration is that of a model whose images can be read."""
    return bool(config.model_type == CLASS)


def why_not(name: str, config: Any) -> str:
    """Return why images cannot be given to a model."""
    vision = getattr(config, "vision_config", None)
    if vision is None:
        return f"{name} reads text only; {READ}."
    way = next((way for start, way in WAYS.items() if config.model_type.startswith(start)),
               "gives images to its layers in a way that decodebench lacks")
    return f"{name} ({config.model_type}) {way}, so its images cannot be read here; {READ}."


def check_class(name: str, config: Any) -> None:
    """Raise `UserError` for a model with a vision tower that cannot be used, not even for text."""
    from transformers import AutoModelForCausalLM

    tower = getattr(config, "vision_config", None)
    if reads_images(config):
        kind = getattr(tower, "model_type", None)
        if kind not in TOWERS:
            raise UserError(f"{name} has a vision tower of the kind '{kind}', which gives images different numbers of "
                            f"tokens; {READ}.")
    elif tower is not None and type(config) not in AutoModelForCausalLM._model_mapping:
        raise UserError(why_not(name, config))


def refuse_images(name: str, config: Any, instead: str) -> None:
    """Raise `UserError` for a model that reads images, where only others can run; `instead` is what the user can do."""
    if reads_images(config):
        raise UserError(f"{name} is a model that reads images ({config.model_type}); {instead}.")


@dataclass(frozen=True)
class ImageReader:
    """How a model reads images: its image processor, and the placeholder of which each image has `count`."""

    processor: Any
    marker: str
    placeholder: int
    count: int

    def picture(self, image: ImageFile) -> Picture:
        """Return an image whose pixels are read from its file when they are needed."""
        def load() -> Tensor:
            from PIL import Image

            with Image.open(image.path) as file:
                pixels: Tensor = self.processor(file.convert("RGB"), return_tensors="pt")["pixel_values"]
            return pixels
        return Picture(image.sha256, load)

    def placed(self, tokens: Sequence[int], pictures: Sequence[Picture]) -> list[int]:
        """Return a prompt with the tokens of an image in place of each placeholder, in the order of `pictures`."""
        left, found = list(pictures), list[int]()
        for token in tokens:
            found += image_tokens(token, left.pop(0), self.count) if token == self.placeholder and left else [token]
        return found


def image_reader(name: str, place: Source, engine: Engine, tokenizer: Any) -> ImageReader | None:
    """Return how a loaded model reads images, None if it reads text only.

    Raises `UserError` if its image processor is missing, or its tokenizer has no placeholder.
    """
    from transformers import AutoImageProcessor

    if not isinstance(engine, ImageEngine):
        return None
    placeholder = engine.model.config.image_token_id
    if placeholder not in special_ids(tokenizer) or placeholder >= engine.parts.embedding.num_embeddings:
        raise UserError(f"The tokenizer of {name} has no special token {placeholder}, which its configuration names as "
                        "the placeholder of images; give the tokenizer of the model with --tokenizer.")
    try:
        processor = AutoImageProcessor.from_pretrained(place.place, backend="pil")
    except Exception as error:  # the library raises many kinds of errors for a folder without one
        raise UserError(f"'{name}' has no image processor that can be loaded ({first_sentence(error)}); save its "
                        "preprocessor_config.json beside the model.") from error
    return ImageReader(processor, tokenizer.convert_ids_to_tokens(placeholder), placeholder, len(_features(engine)))


def typed(prompt: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Return messages as chat templates of processors read them: a list of images and texts each."""
    return [{"role": one["role"], "content": [*[{"type": "image"}] * one["content"].count(IMAGE), {
        "type": "text", "text": one["content"].replace(f"{IMAGE}\n", "").replace(IMAGE, "")}]} for one in prompt]


def same_words(target: Any, draft: Any, ends: frozenset[int]) -> bool:
    """Return whether a draft model's tokenizer has all tokens of the target's but special ones, none of which `ends`.
    """
    own, words = draft.get_vocab().items(), target.get_vocab().items()
    beyond = {number for _, number in words - own}
    return bool(own <= words and beyond <= special_ids(target) - ends)


def image_rows(engine: Engine) -> tuple[Tensor, Tensor]:
    """Return the logits (4, V) of a tree below a prompt with an image, and those of forwards with its pixels."""
    model, (before, after, *tree) = engine.model, [token % engine.vocab for token in (5, 11, 2, 9, 4)]
    picture, pixels = Picture("", lambda: pixels), _noise(engine)
    inside = image_tokens(model.config.image_token_id, picture, len(_features(engine)))
    prompt = [before, *inside, after]
    session = Session(engine)
    session.follow(prompt)
    rows = session.read(TokenTree(tuple(tree), (-1, 0, -1))).logits
    session.close()
    paths = [[], tree[:1], tree[:2], tree[2:]]
    with torch.inference_mode():
        return rows, torch.stack([model(
            input_ids=torch.tensor([[*prompt, *path]], device=engine.device), use_cache=False,
            pixel_values=pixels).logits[0, -1].float() for path in paths])


def _noise(engine: Engine) -> Tensor:
    """Return pixels (1, C, H, W) of noise in the size that the vision tower reads."""
    vision = engine.model.config.vision_config
    shape = (1, getattr(vision, "num_channels", 3), vision.image_size, vision.image_size)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return noise.to(engine.device, engine.dtype)


@torch.inference_mode()
def _features(engine: Engine) -> Tensor:
    assert isinstance(engine, ImageEngine)
    return engine.features(_noise(engine))[0]
