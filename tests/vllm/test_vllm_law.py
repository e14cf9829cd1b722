"""`decodebench verify --backend vllm` detects the bug without the patch, and passes with it."""

import json
from pathlib import Path

import pytest

from tests.vllm.test_vllm_runs import decodebench


@pytest.mark.parametrize(("mend", "code", "strategies"), [
    ("on", 0, ("speculative", "prompt_lookup")), ("off", 1, ("speculative",))])  # an engine takes long to start
def test_the_lost_temperature_is_detected_by_the_distribution_alone(tmp_path: Path, mend: str, code: int,
                                                                    strategies: tuple[str, ...]) -> None:
    asked = [word for name in strategies for word in ("-s", name)]
    done = decodebench("verify", "--backend", "vllm", *asked, "-t", "nano_story", "--temperature", "0.7",
                       "--json", str(tmp_path / "found.json"), DECODEBENCH_VLLM_MEND=mend)
    found = {f["strategy"].partition(":")[0] + " " + f["temperature"]: f
             for f in json.loads((tmp_path / "found.json").read_text())["findings"]}
    assert done.returncode == code, done.stdout + done.stderr
    assert all(finding["ok"] for name, finding in found.items() if name.endswith(" 0"))
    assert found["speculative 0.7"]["ok"] == (mend == "on")
