"""Reads the data of a page back."""

import base64
import gzip
import json
from collections.abc import Sequence
from typing import Any

from harness.report.page_samples import Samples, samples_of
from harness.store.folder import Store


def unpacked(packed: str) -> Any:
    """Return what `compressed` was given."""
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def block_of(stores: Sequence[Store], name: str = "block-0") -> Any:
    """Return a block of answers of the page of these runs."""
    return unpacked(index_and_blocks(stores)[1][name])


def index_and_blocks(stores: Sequence[Store]) -> Samples:
    """Return the samples of the page of these runs."""
    return samples_of(stores, [store.length() for store in stores])
