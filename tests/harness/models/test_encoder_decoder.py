"""Encoder-decoder models: which classes load, what their configuration means, and which options refuse them."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from harness.engine.forced import Forced
from harness.errors import UserError
from harness.models.encoder_decoder import make_engine
from harness.models.loading import check, load
from harness.models.size import max_len, size_of
from harness.models.vocabulary import share
from harness.run.loading import load_draft
from harness.store.config import RunConfig
from strategies.greedy import Greedy
from strategies.speculative import Speculative
from tests.pair import saved as decoder
from tests.seq2seq import BART, EOS, LONGEST, PAD, T5, decode, engine, saved, tiny

LIKE_BART = ("Bart", "MBart", "PLBart", "Marian", "Pegasus", "Blenderbot", "BlenderbotSmall", "M2M100")
LIKE_T5 = ("T5", "MT5", "UMT5", "LongT5")
DEPTHS = {"encoder_layers": 1, "decoder_layers": 2}


def config(name: str) -> Any:
    """Return a configuration with two decoder layers above one encoder layer."""
    own = T5 | {"num_layers": 1, "num_decoder_layers": 2} if name in LIKE_T5 else BART | DEPTHS
    return getattr(transformers, f"{name}Config")(vocab_size=61, **own | {"decoder_start_token_id": EOS})


@pytest.mark.parametrize("name", [*LIKE_BART, *LIKE_T5])
def test_classes_read_trees_as_plain_sequences(name: str) -> None:
    torch.manual_seed(0)
    target = make_engine(transformers.AutoModelForSeq2SeqLM.from_config(config(name)).eval(), LONGEST)
    check(target)
    assert len(target.cache.layers) == 2
    assert ("attention" in target.offers) == (name in LIKE_BART)
    assert not {"prompt", "canvas"} & target.offers


def test_a_class_that_counts_its_positions_otherwise_is_refused() -> None:
    wide = {**BART, **DEPTHS, "decoder_start_token_id": PAD}
    del wide["max_position_embeddings"]
    model = transformers.LEDForConditionalGeneration(transformers.LEDConfig(
        vocab_size=61, max_encoder_position_embeddings=64, max_decoder_position_embeddings=64, attention_window=8,
        **wide)).eval()
    with pytest.raises(UserError, match="cannot run with the KV cache"):
        check(make_engine(model, 64))


@pytest.mark.parametrize("kind", ["bart", "t5", "marian"])
def test_what_a_loaded_model_knows(kind: str) -> None:
    model = load(str(saved(kind)))
    assert model.engine.prefix == ((EOS,) if kind == "bart" else (PAD,))
    assert model.engine.forced == Forced()
    assert model.engine.max_len == (1 << 20 if kind == "t5" else LONGEST)
    assert size_of(model.engine.model, max_len(model.engine.model)).token > 0


def test_the_start_token_is_looked_for_in_order() -> None:
    model = tiny("bart")
    model.generation_config.decoder_start_token_id = 9
    model.generation_config.forced_eos_token_id = [EOS]
    target = make_engine(model, LONGEST)
    assert (target.prefix, target.forced) == ((9,), Forced(None, EOS))
    for place in (model.generation_config, model.config):
        place.decoder_start_token_id = None
    assert make_engine(model, LONGEST).prefix == (1,)  # BOS
    model.generation_config.bos_token_id = None
    with pytest.raises(UserError, match="has no decoder_start_token_id"):
        make_engine(model, LONGEST)


@pytest.mark.parametrize("option", ["device_map", "compiled", "rope"])
def test_options_for_other_models(option: str) -> None:
    value: Any = {"device_map": "auto", "compiled": True, "rope": "linear:2"}[option]
    with pytest.raises(UserError, match=r"is an encoder-decoder model .*; leave --.* out"):
        load(str(saved("t5")), **{option: value})


def test_a_draft_model_has_an_encoder_too() -> None:
    other = partial(RunConfig, model=str(saved("bart")), device="cpu", output=Path("unused"))
    target = load(str(saved("bart")))
    with pytest.raises(UserError, match=r"Only one of .* has an encoder"):
        load_draft(other(draft=str(decoder("llama"))), target, [Speculative()])
    draft = load_draft(other(draft=str(saved("bart", 1))), target, [Speculative()])
    assert draft
    assert draft.vocab == target.vocab


def test_families_pad_their_vocabularies_to_different_sizes() -> None:
    target, draft, source = engine("bart"), make_engine(tiny("bart", 1, 101), LONGEST), [*range(20, 29), EOS]
    share(target, draft)
    assert draft.vocab == target.vocab == 97
    assert decode(Speculative(gamma=3), target, source, draft=draft) == decode(Greedy(), target, source)
