"""A tiny target and draft model with a tokenizer, saved to folders, for end-to-end tests."""

from functools import cache
from pathlib import Path
from tempfile import mkdtemp

from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.decoders import ByteLevel
from transformers import PreTrainedTokenizerFast

from tests.models import EOS, tiny_model

VOCAB = 3 + 256


def tokenizer() -> PreTrainedTokenizerFast:
    """Create a tokenizer with one token a byte, after pad, bos and eos."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {"<pad>": 0, "<s>": 1, "</s>": EOS} | {letter: 3 + i for i, letter in enumerate(alphabet)}
    raw = Tokenizer(models.BPE(words, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="</s>", pad_token="<pad>", bos_token="<s>")


@cache
def saved(arch: str, seed: int = 0) -> Path:
    """Return the folder of a saved tiny model."""
    folder = Path(mkdtemp(prefix=f"decodebench-{arch}-"))
    tiny_model(arch, vocab=VOCAB, seed=seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder
