"""Tiny LLaVA models, drawn images, and strategies decoding on them as the runner lets them."""

import json
from collections.abc import Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from harness.backends.trace import Trace, trace
from harness.backends.transformers import open_session
from harness.engine.engine import Engine
from harness.engine.images import Picture, image_tokens
from harness.engine.random_stream import PhiloxStream, Stream
from harness.models.encoder_decoder import make_engine
from harness.models.stop_rule import StopRule
from harness.plugins.strategy import Request, Strategy
from tests import pair
from tests.decode import words
from tests.heads import attach
from tests.models import EOS, MAX_POSITIONS, tiny_model

SIDE, PATCH = 16, 8
COUNT = (SIDE // PATCH) ** 2  # tokens of an image


def tiny(vocab: int = 97, seed: int = 0, text: Any = None, width: int = 32, **options: Any) -> Any:
    """Return a LLaVA model over a tiny llama, whose last token is the placeholder; features vary as embeddings do."""
    torch.manual_seed(seed)
    text = text or tiny_model("llama", vocab=vocab, seed=seed)
    vision = CLIPVisionConfig(hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
                              num_attention_heads=2, image_size=SIDE, patch_size=PATCH)
    made = LlavaForConditionalGeneration(LlavaConfig(
        vision_config=vision, text_config=text.config, image_token_index=vocab - 1, tie_word_embeddings=False,
        image_seq_length=COUNT, **options)).eval()
    made.model.language_model.load_state_dict(text.model.state_dict())
    made.lm_head.load_state_dict(text.lm_head.state_dict())
    with torch.no_grad():
        for name, weight in [*made.model.vision_tower.named_parameters(),
                             *made.model.multi_modal_projector.named_parameters()]:
            weight *= 8 if "patch_embedding" in name or "position_embedding" in name else 5
    made.generation_config = text.generation_config
    return made


@cache
def engine(seed: int = 0, vocab: int = 97) -> Engine:
    """Return an engine over a tiny model that reads images, with untrained heads."""
    return attach(make_engine(tiny(vocab, seed), MAX_POSITIONS))


@cache
def blind(seed: int = 1, vocab: int = 97) -> Engine:
    """Return the engine of a draft model for text."""
    made = Engine(tiny_model("llama", vocab=vocab, seed=seed), MAX_POSITIONS)
    made.blind = True
    return made


def pixels(seed: int) -> torch.Tensor:
    """Return the pixels (1, 3, H, W) of an image of noise."""
    return torch.randn(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def prompt_with(seed: int, before: Sequence[int], after: Sequence[int], vocab: int = 97) -> list[int]:
    """Return a prompt with an image of noise in it."""
    return [*before, *image_tokens(vocab - 1, Picture(f"noise {seed}", lambda: pixels(seed)), COUNT), *after]


@torch.inference_mode()
def traced(strategy: Strategy, target: Engine, prompt: Sequence[int], *, draft: Engine | None = None, new: int = 24,
           sample: int = 0, eos: int | None = EOS, stream: Stream | None = None, given: Sequence[int] = ()) -> Trace:
    """Return the trace with trees of the answer of `strategy` to a prompt, which may be given."""
    ends = frozenset() if eos is None else frozenset({eos})
    rule = StopRule(pair.tokenizer(), tuple(prompt), ends, ())
    request = Request(tuple(prompt), new, stream or PhiloxStream(0, *map(int, prompt), sample), ends, sample,
                      text=words(prompt, target.vocab))
    with closing(open_session(strategy, [target, *([draft] if draft else [])])) as session:
        return trace(strategy, session, request, rule, lambda: 0.0, full=True, given=given)


def decode(strategy: Strategy, target: Engine, prompt: Sequence[int], **options: Any) -> list[int]:
    """Return the tokens of the answer of `strategy` to a prompt, with EOS."""
    return traced(strategy, target, prompt, **options).tokens


def tokenizer() -> PreTrainedTokenizerFast:
    """Create a tokenizer of bytes with a placeholder for images."""
    made = pair.tokenizer()
    made.add_special_tokens({"additional_special_tokens": ["<image>"]})
    return made


@cache
def saved(seed: int = 0, processor: bool = True, **options: Any) -> Path:
    """Return the folder of a saved tiny model that reads images."""
    folder = Path(mkdtemp(prefix="decodebench-llava-"))
    tiny(pair.VOCAB + 1, seed, **options).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if processor:
        CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
                              ).save_pretrained(folder)
    return folder


def task_file(folder: Path, rows: Sequence[dict[str, Any]], images: int = 2) -> Path:
    """Write `images` images of noise, 0.png and so on, and a task of these rows beside them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(images):
        noise = np.random.default_rng(number).integers(0, 256, (20, 24, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    path = folder / "seen.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
