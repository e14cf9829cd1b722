"""What a model needs is told before it is loaded, and a model that does not fit is refused by name."""

from pathlib import Path

import pytest
import torch

from harness.errors import UserError
from harness.models.loading import find, load
from harness.models.size import Size, meta_model, shortage, size_of
from tests.models import ARCHS
from tests.pair import saved
from tests.program import call


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("arch", ARCHS)
def test_the_size_is_that_of_the_loaded_model(arch: str, dtype: torch.dtype) -> None:
    told = size_of(meta_model(find(str(saved(arch)))[1], dtype), 512)
    loaded = load(str(saved(arch)), dtype=str(dtype).removeprefix("torch."))
    assert told.parameters == loaded.parameters
    assert told.weights == sum(weight.nbytes for weight in loaded.engine.model.parameters())
    assert told.token == loaded.engine.cache.slot_bytes()


def test_rows_share_half_of_what_the_weights_leave() -> None:
    one = Size(parameters=100, weights=400, token=2, longest=4096)
    assert one.rows(400 + 2 * 2 * 1024 * 3) == 3
    assert one.rows(400 + 2 * 2 * 1024 * 3 - 1) == 2
    assert one.rows(399) == 0
    assert Size(parameters=100, weights=400, token=2, longest=8).rows(432) == 1, "no longer than the context"


def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved("llama")
    monkeypatch.setattr("harness.models.loading._load_weights", lambda *_: pytest.fail("it was loaded"))
    monkeypatch.setattr("harness.models.loading.free_bytes", lambda device: 1000)
    with pytest.raises(UserError, match=r"needs [\d.e+-]+ GB for its weights, but 1e-06 GB are free: give a smaller"):
        load(str(folder))


GB = 10 ** 9
LARGE = Size(parameters=7 * GB // 4, weights=7 * GB, token=500_000, longest=4096)
DRAFT = Size(parameters=GB // 2, weights=GB, token=100_000, longest=512)  # in bfloat16


def test_what_fits_needs_no_sentence() -> None:
    assert not shortage({"X": LARGE}, 7 * GB)
    assert not shortage({"X": LARGE}, 7 * GB + 500_000 * 4096, tokens=10_000), "no longer than the context"
    assert not shortage({"X": LARGE, "Y": DRAFT}, 8 * GB + 600_000 * 512, tokens=512)


@pytest.mark.parametrize(("models", "free", "tokens", "gpus", "sentence"), [
    ({"X": LARGE}, 6 * GB, 0, {}, "'X' needs 7 GB for its weights, but 6 GB are free: give --dtype bfloat16 (3.5 GB)."),
    ({"X": LARGE}, 3 * GB, 0, {}, "'X' needs 7 GB for its weights, but 3 GB are free: give a smaller model."),
    ({"X": LARGE}, 3 * GB, 0, {"a": 3 * GB, "b": 4 * GB},
     "'X' needs 7 GB for its weights, but 3 GB are free: give --device-map auto (2 GPUs with 7 GB)."),
    ({"X": LARGE}, 3 * GB, 0, {"a": 3 * GB, "b": 3 * GB},
     "'X' needs 7 GB for its weights, but 3 GB are free: give a smaller model."),
    ({"X": LARGE}, 8 * GB, 4000, {}, "'X' needs 7 GB for its weights and 2 GB for a sequence of 4,000 tokens, but 8 GB "
                                     "are free: give --dtype bfloat16 (4.5 GB) or a lower --max-new-tokens."),
    ({"X": LARGE, "Y": DRAFT}, 8 * GB, 500, {"a": 9 * GB, "b": 9 * GB},
     "'X' and 'Y' need 8 GB for their weights and 0.3 GB for a sequence of 500 tokens, but 8 GB are free: give --dtype "
     "bfloat16 (4.67 GB) or --device-map auto (2 GPUs with 18 GB)."),
    ({"Y": DRAFT}, GB // 2, 0, {}, "'Y' needs 1 GB for its weights, but 0.5 GB are free: give a smaller model."),
])
def test_a_shortage_names_only_what_fits(models: dict[str, Size], free: int, tokens: int, gpus: dict[str, int],
                                         sentence: str) -> None:
    assert shortage(models, free, tokens, gpus) == sentence


def test_doctor_tells_the_size_and_the_speed_of_a_model(tmp_path: Path) -> None:
    lines = call("doctor", "-m", saved("llama")).stdout.splitlines()
    (told,) = (line for line in lines if line.startswith("ok       model"))
    assert "LlamaForCausalLM, 0.1 M parameters" in told
    assert "reads 512 tokens, no chat template, 1 EOS; KV cache 0." in told
    assert "sequences of 512 tokens at once" in told
    (speed,) = (line for line in lines if line.startswith("ok       speed"))
    assert "ms a token, so 1,000 tokens take" in speed
    done = call("doctor", "-m", "nano", "--dtype", "float8")
    assert any(line.startswith("broken   model     There is no dtype 'float8'.") for line in done.stdout.splitlines())
    done = call("doctor", "-m", "nope")
    assert done.exit_code == 1
    assert "broken   model     There is no model 'nope'" in done.stdout
