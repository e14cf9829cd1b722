"""Settings of a run: what a file and the command line give, and the sentence for each value that cannot be."""

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.store.config import RunConfig


def written(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_a_file_gives_every_kind_of_value_and_options_override_it(tmp_path: Path) -> None:
    path = written(tmp_path, 'tasks = ["gsm8k"]\nplugins = ["a.py"]\nlimit = 3\nmax-new-tokens = 7\ncache_gb = 2\n'
                             'texts = false\ndata = "rows"\n')
    found = RunConfig.from_toml(path, limit=5)
    assert found == RunConfig(tasks=("gsm8k",), plugins=(Path("a.py"),), limit=5, max_new_tokens=7, cache_gb=2.0,
                              texts=False, data=Path("rows"))
    assert isinstance(found.cache_gb, float)


def test_a_tilde_is_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = written(tmp_path, 'output = "~/x"\ndata = "~/rows"\nplugins = ["~/p.py", "q.py"]\n')
    found = RunConfig.from_toml(path)
    assert (found.output, found.data, found.plugins) == (
        tmp_path / "x", tmp_path / "rows", (tmp_path / "p.py", Path("q.py")))
    assert RunConfig(output=Path("~/y")).output == tmp_path / "y"


@pytest.mark.parametrize("key", ["batch-size", "batch_size", "concurrency"])
def test_the_batch_size_has_two_names(tmp_path: Path, key: str) -> None:
    assert RunConfig.from_toml(written(tmp_path, f"{key} = 8\n")).concurrency == 8
    with pytest.raises(UserError, match=r"run\.toml gives concurrency twice, the second time as 'concurrency'"):
        RunConfig.from_toml(written(tmp_path, "batch-size = 8\nconcurrency = 4\n"))


@pytest.mark.parametrize(("line", "sentence"), [
    ('limit = "3"', "--limit must be a whole number, not '3'."),
    ("limit = 0", "--limit must be at least 1, not 0."),
    ("limit = true", "--limit must be a whole number, not True."),
    ("limit = 2.5", "--limit must be a whole number, not 2.5."),
    ("batch-size = 0", "--concurrency must be at least 1, not 0."),
    ("cache-gb = 0.0", "--cache-gb must be above 0, not 0.0."),
    ("cache-gb = inf", "--cache-gb must be a finite number, not inf."),
    ("cache-gb = nan", "--cache-gb must be a finite number, not nan."),
    ("texts = 1", "--texts must be true or false, not 1."),
    ("model = 3", "--model must be a string, not 3."),
    ("output = 3", "--output must be a path, not 3."),
    ('tasks = "gsm8k"', "--tasks must be a list of strings, not 'gsm8k'."),
    ("tasks = [1]", "--tasks must be a list of strings, not 1."),
    ("plugins = [1]", "--plugins must be a list of strings, not 1."),
    ('backend = "transformer"', "There is no backend 'transformer'. Did you mean 'transformers'?"),
    ('base-url = "x"', "--base-url is for a server: give --backend openai, or leave it out."),
])
def test_a_wrong_value_in_a_file_is_one_sentence(tmp_path: Path, line: str, sentence: str) -> None:
    path = written(tmp_path, line + "\n")
    with pytest.raises(UserError) as caught:
        RunConfig.from_toml(path)
    assert str(caught.value) == f"{path}: {sentence}"


def test_a_wrong_value_of_an_option_does_not_blame_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        RunConfig.from_toml(written(tmp_path, "limit = 3\n"), limit=0)
    assert str(caught.value) == "--limit must be at least 1, not 0."


def test_an_unknown_key_has_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has an unknown key 'limt'\. Did you mean 'limit'\?"):
        RunConfig.from_toml(written(tmp_path, "limt = 3\n"))


def test_a_configuration_is_frozen_and_a_changed_copy_is_checked_again() -> None:
    config = RunConfig(limit=3)
    with pytest.raises(FrozenInstanceError):
        config.limit = 4  # type: ignore[misc]
    assert replace(config, limit=4) == RunConfig(limit=4)
    with pytest.raises(UserError, match="--limit must be at least 1"):
        replace(config, limit=0)
    with pytest.raises(UserError, match="leave --concurrency out"):
        RunConfig(backend="openai", base_url="x", request_rate=2.0, concurrency=2)
