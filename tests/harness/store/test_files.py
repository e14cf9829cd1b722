"""Files on a full disk: the size limit of a process stands for it, because it stops a write half-way just so."""

import errno
import multiprocessing
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.store import jsonl
from harness.store.files import cannot_write, replace_file
from harness.store.schema import ModelEntry
from tests.runs import MODEL

SPACE = 100_000  # bytes


def with_little_space(job: Callable[..., object], *arguments: object) -> str:
    """What `job` says to the user in a process that cannot make a file larger than `SPACE`."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_limited, (job, arguments))


def _limited(job: Callable[..., object], arguments: tuple[object, ...]) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (SPACE, resource.RLIM_INFINITY))
    try:
        job(*arguments)
    except UserError as error:
        return str(error)
    return ""


def append(path: Path, rows: int) -> None:
    for _ in range(rows):
        jsonl.append(path, [MODEL])


def test_a_row_that_does_not_fit_leaves_only_whole_rows(tmp_path: Path) -> None:
    path, line = tmp_path / "rows.jsonl", MODEL.model_dump_json() + "\n"
    said = with_little_space(append, path, SPACE)
    assert said == f"{path} cannot be written (File too large): free some space on that disk, then resume " \
        "with the same command."
    assert path.read_text() == line * (SPACE // len(line))
    jsonl.append(path, [MODEL])
    assert len(list(jsonl.read(path, ModelEntry, "a model"))) == SPACE // len(line) + 1


def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "summary.csv"
    assert replace_file(path, "old") == path
    assert "free some space" in with_little_space(replace_file, path, "x" * (SPACE + 1))
    assert path.read_text() == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("name", ["summary.csv", "folder/summary.csv"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UserError, match=f"{file}.* cannot be written .*make its folder writable or choose another"):
        replace_file(file / name, "new")


@pytest.mark.parametrize(("number", "remedy"), [(errno.ENOSPC, "free some space"), (errno.EDQUOT, "free some space"),
                                                (errno.EROFS, "writable"), (errno.EACCES, "writable")])
def test_the_remedy_fits_the_reason(number: int, remedy: str) -> None:
    assert remedy in str(cannot_write(Path("run"), OSError(number, "why")))


@pytest.mark.parametrize("size", [0, 1, 10, 1 << 16, (1 << 16) + 1, 200_000])
def test_a_torn_line_is_cut_off_whatever_its_length(tmp_path: Path, size: int) -> None:
    path = tmp_path / "rows.jsonl"
    for whole in (b"", b"{}\n", b"x" * 70_000 + b"\n{}\n"):
        path.write_bytes(whole + b"y" * size)
        jsonl.mend(path)
        assert path.read_bytes() == whole
    jsonl.mend(tmp_path / "none")
    assert not (tmp_path / "none").exists()
