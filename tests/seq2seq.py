"""Tiny encoder-decoder models of three classes, and strategies decoding on them as the runner lets them."""

from collections.abc import Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
import transformers

from harness.backends.trace import Trace, trace
from harness.backends.transformers import open_session
from harness.engine.engine import Engine
from harness.engine.random_stream import PhiloxStream, Stream
from harness.models.encoder_decoder import make_engine
from harness.models.stop_rule import StopRule
from harness.plugins.strategy import Request, Strategy
from tests.decode import words
from tests.pair import tokenizer
from tests.scale import scaled

PAD, EOS, LONGEST = 0, 2, 256
LAYERS = scaled(1, 2)
BART: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 1, "decoder_layers": LAYERS, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": LONGEST,
    "init_std": 0.7, "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": EOS, "forced_eos_token_id": None,
    "tie_word_embeddings": False}
# as many layers in the encoder, whose number `generate` takes for that of the decoder
T5: dict[str, Any] = {
    "d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": LAYERS, "num_decoder_layers": LAYERS, "num_heads": 4,
    "pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": EOS, "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 16,
    "decoder_start_token_id": PAD, "tie_word_embeddings": False, "initializer_factor": 3.0}
ARCHS = ("bart", "t5", "marian")  # the first has EOS as its start token


def tiny(arch: str, seed: int = 0, vocab: int = 97, sharpness: float = 2.5, **options: Any) -> Any:
    """Return a model whose logits have a standard deviation of about `sharpness` at all of its places."""
    torch.manual_seed(seed)
    if arch == "t5":
        made: Any = transformers.T5ForConditionalGeneration(transformers.T5Config(vocab_size=vocab, **T5 | options))
    elif arch == "bart":
        made = transformers.BartForConditionalGeneration(transformers.BartConfig(
            vocab_size=vocab, decoder_start_token_id=EOS, **BART | options))
    else:
        made = transformers.MarianMTModel(transformers.MarianConfig(
            vocab_size=vocab, decoder_start_token_id=PAD, scale_embedding=True, **BART | options))
    made.eval()
    ids, head = torch.arange(3, vocab)[None], made.get_output_embeddings().weight
    with torch.no_grad():
        states = made.get_decoder()(input_ids=ids, encoder_hidden_states=made.get_encoder()(input_ids=ids)[0])[0][0]
        mean = states.mean(0) / states.mean(0).square().sum()
        head -= torch.outer(head @ states.mean(0), mean)  # what all states share would choose the same token always
        head *= sharpness / float((states @ head.T).std())
        head[EOS] += 4 * mean  # which makes some answers end, and none have padding
        head[PAD] -= 12 * mean
    made.generation_config.eos_token_id, made.generation_config.pad_token_id = EOS, PAD
    return made


@cache
def engine(arch: str, seed: int = 0, vocab: int = 97) -> Engine:
    """Return an engine over a tiny model."""
    return make_engine(tiny(arch, seed, vocab), LONGEST)


@cache
def saved(arch: str, seed: int = 0) -> Path:
    """Return the folder of a saved tiny model with a tokenizer of bytes."""
    folder = Path(mkdtemp(prefix=f"decodebench-{arch}-"))
    tiny(arch, seed, len(tokenizer())).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@torch.inference_mode()
def traced(strategy: Strategy, target: Engine, source: Sequence[int], *, draft: Engine | None = None, new: int = 24,
           sample: int = 0, eos: int | None = EOS, stream: Stream | None = None, given: Sequence[int] = ()) -> Trace:
    """Return the trace of the answer of `strategy` to a source, which may be given."""
    ends = frozenset() if eos is None else frozenset({eos})
    rule = StopRule(tokenizer(), (), ends, ())
    request = Request(target.prefix, new, stream or PhiloxStream(0, *source, sample), ends, sample,
                      text=words(source, target.vocab), source=tuple(source))
    with closing(open_session(strategy, [target, *([draft] if draft else [])])) as session:
        return trace(strategy, session, request, rule, lambda: 0.0, given=given)


def decode(strategy: Strategy, target: Engine, source: Sequence[int], **options: Any) -> list[int]:
    """Return the tokens of the answer of `strategy` to a source, with EOS."""
    return traced(strategy, target, source, **options).tokens
