"""Images in a prompt: their tokens, and the engine that reads the features of a vision tower in place of embeddings."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from harness.engine.engine import Engine
from harness.engine.forward import Encoded, ForwardRequest, ForwardRows
from harness.engine.hooks import replaced
from harness.engine.windows import Masks
from harness.errors import Unsupported


class Picture:
    """An image of one request: the hash of its file, how its pixels (1, C, H, W) are read, and its features.

    `features` (N, D) are those of its tokens once a forward has needed them, and `work` is where that is counted.
    """

    def __init__(self, identity: str, load: Callable[[], Tensor]) -> None:
        self.identity, self.load = identity, load
        self.pixels: Tensor | None = None
        self.features: Tensor | None = None
        self.work: Encoded | None = None


class ImageToken(int):
    """One of the tokens that stand for an image: a placeholder by its number, the same only in the same image.

    Placeholders have the same id in all images, so their place and the hash of the image are part of equality: caches,
    shared prefixes and tables of token ids then tell images apart as they tell words apart.
    """

    picture: Picture
    place: int

    def __new__(cls, placeholder: int, picture: Picture, place: int) -> "ImageToken":
        """Return the token number `place` of an image."""
        token = super().__new__(cls, placeholder)
        token.picture, token.place = picture, place
        return token

    @property
    def feature(self) -> Tensor:
        """The features (D,) that a forward has computed for this token."""
        assert self.picture.features is not None
        return self.picture.features[self.place]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImageToken) and _key(self) == _key(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: int) -> bool:
        return _key(self) < _key(other)

    def __gt__(self, other: int) -> bool:
        return _key(self) > _key(other)

    def __hash__(self) -> int:
        return hash(_key(self))


def _key(token: int) -> tuple[int, str, int]:
    return (int(token), token.picture.identity, token.place) if isinstance(token, ImageToken) else (token, "", 0)


def image_tokens(placeholder: int, picture: Picture, count: int) -> list[int]:
    """Return the `count` tokens that stand for an image."""
    return [ImageToken(placeholder, picture, place) for place in range(count)]


def without_images(tokens: Sequence[int], vocab: int) -> list[int]:
    """Return the tokens below `vocab` without those of images."""
    return [token for token in tokens if token < vocab and not isinstance(token, ImageToken)]


@contextmanager
def read_for(prompt: Sequence[int], work: Encoded) -> Iterator[None]:
    """Read the images of a prompt from disk, and count their cost as `work`, until its answer ends."""
    pictures = {token.picture for token in prompt if isinstance(token, ImageToken)}
    for picture in pictures:
        picture.pixels, picture.work = picture.load(), work
    try:
        yield
    finally:
        for picture in pictures:  # which tables of strategies may keep
            picture.pixels = picture.features = picture.work = None


class ImageEngine(Engine):
    """The engine of a model that reads features of images at some tokens of the prompt, in place of embeddings.

    Features are computed once for each request, before the first forward that needs them, together with those of other
    requests that wait. `encodings` counts the forwards of the vision tower, `encoded` the tokens of images in them.
    """

    def __init__(self, model: Any, max_len: int) -> None:
        super().__init__(model, max_len)
        self.offers = self.offers | {"images"}
        self._seen = list[tuple[int, int, ImageToken]]()  # row and column of the forward

    def compile(self) -> None:
        """Raise `Unsupported`, because features are given to each forward by a hook."""
        raise Unsupported("a model that reads images cannot be compiled")

    def features(self, pixels: Tensor) -> list[Tensor]:
        """Return the features (N, D) of each of the images (B, C, H, W)."""
        found = self.model.get_image_features(pixel_values=pixels.to(self.device, self.dtype))
        return list(getattr(found, "pooler_output", found))

    def run(self, requests: Sequence[ForwardRequest]) -> list[ForwardRows]:
        """Compute the features that are missing, then run one forward as for any model."""
        with torch.inference_mode():
            first = min(request.row.index for request in requests)
            self._seen = [(request.row.index - first, column, token) for request in requests
                          for column, token in enumerate(request.tokens) if isinstance(token, ImageToken)]
            self._encode([token.picture for _, _, token in self._seen])
            return super().run(requests)

    def _encode(self, pictures: Sequence[Picture]) -> None:
        """Compute the features of pictures that have none, in one forward of the vision tower."""
        waiting = [picture for picture in dict.fromkeys(pictures) if picture.features is None]
        if not waiting:
            return
        pixels = [picture.load() if picture.pixels is None else picture.pixels for picture in waiting]
        for picture, features in zip(waiting, self.features(torch.cat(pixels)), strict=True):
            picture.features, picture.pixels = features, None
            self.encoded += len(features)
            if picture.work:
                picture.work.encodings += 1
                picture.work.encoded += len(features)
        self.encodings += 1

    def _plain(self, tokens: Tensor, positions: Tensor, masks: Masks, kept: int) -> tuple[Tensor, Tensor]:
        if not self._seen:
            return super()._plain(tokens, positions, masks, kept)
        embedding = self.parts.embedding
        embed, (rows, columns) = embedding.forward, torch.tensor([one[:2] for one in self._seen]).T
        features = torch.stack([token.feature for _, _, token in self._seen])

        def with_images(ids: Tensor) -> Tensor:
            vectors = embed(ids).clone()
            vectors[rows, columns] = features.to(vectors.dtype)
            return vectors
        with replaced({embedding: with_images}):
            return super()._plain(tokens, positions, masks, kept)
