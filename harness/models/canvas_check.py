"""Compares the forwards of a canvas with plain ones, when a model is loaded that fills masks."""

from contextlib import closing

import torch
from torch import Tensor

from harness.decoding.canvas import Canvas, block_mask
from harness.engine.engine import Engine
from harness.engine.session import Session

SIZE = 3  # of the windows that are compared
SOURCE = (8, 2, 9, 4)  # what an encoder reads


def canvas_rows(engine: Engine) -> tuple[Tensor, Tensor]:
    """Return logits (N, V) of canvases in every cache mode, and those of forwards without a cache.

    Each window is looked at twice: the second forward finds the first one's keys, and nothing has changed. With
    attention by blocks, so does the next window, after the first one has been filled.
    """
    assert engine.canvas is not None
    size, cached, plain = engine.vocab, list[Tensor](), list[Tensor]()
    wanted = torch.arange(size, device=engine.device) != engine.canvas.mask
    for cache in engine.canvas.caches:
        with closing(Session(engine)) as session:
            session.begin([token % size for token in SOURCE])
            canvas = Canvas(session, [*engine.prefix, *(token % size for token in (5, 11, 3, 7))], cache)
            canvas.extend(2 * max(SIZE, engine.canvas.block))
            for _ in range(2 if engine.canvas.blocks(cache) else 1):
                canvas.advance(SIZE)
                for _ in range(2):
                    cached.append(canvas.look()[:, wanted])
                    plain.append(_plain(engine, canvas, cache)[:, wanted])
                canvas.write({place: (2 + place) % size for place in canvas.open})
    return torch.cat(cached), torch.cat(plain)


@torch.inference_mode()
def _plain(engine: Engine, canvas: Canvas, cache: str) -> Tensor:
    """Return the logits (W, V) of a window from one forward without a cache."""
    assert engine.canvas is not None
    count, (first, last), shift = len(canvas.tokens), canvas.window, int(engine.canvas.shift)
    mask = block_mask(0, count, engine.canvas.blocks(cache) or count, engine.dtype, engine.device)
    positions = torch.arange(count, device=engine.device)[None]
    ids = torch.tensor([canvas.tokens], device=engine.device)
    read = {"input_ids": ids, "position_ids": positions, "attention_mask": mask[None, None]}
    if "source" in engine.offers:
        source = torch.tensor([[token % engine.vocab for token in SOURCE]], device=engine.device)
        read = {"input_ids": source, "decoder_input_ids": ids, "decoder_attention_mask": mask[None, None]}
    logits: Tensor = engine.model(**read, use_cache=False).logits[0, first - shift:last - shift].float()
    return logits
