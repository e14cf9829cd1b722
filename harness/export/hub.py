"""A run as a dataset on the Hugging Face hub: a card with the tables, the page, the records, and Parquet files."""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from harness import report
from harness.errors import UserError, first_sentence
from harness.export import parquet, without_prompts
from harness.measure.summary import summarise
from harness.report import tables
from harness.store.files import replace_file
from harness.store.folder import Store

CONFIGS = """configs:
- config_name: samples
  data_files: samples.parquet
- config_name: steps
  data_files: steps.parquet
"""


class Pushed(NamedTuple):
    """Where a run was pushed to, and its number of files."""

    url: str
    files: int


def push(store: Store, repo: str, *, private: bool = False, prompts: bool = False) -> Pushed:
    """Create or update the dataset `repo` (OWNER/NAME) with a run; without `prompts` only answers are published.

    Raises `UserError` if the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    manifest = store.manifest
    with TemporaryDirectory() as place:
        staged = stage(store, Path(place), repo, prompts)
        try:
            hub = HfApi()
            url = hub.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
            hub.upload_folder(repo_id=repo, repo_type="dataset", folder_path=place,
                              commit_message=f"{manifest.model.name}: {len(manifest.strategies)} strategies")
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise UserError(f"The hub refused {repo}: {first_sentence(error)}. Log in with `hf auth login`, with a "
                            "token that may write.") from error
    return Pushed(str(url), len(staged))


def stage(store: Store, folder: Path, repo: str, prompts: bool) -> list[Path]:
    """Write everything that is pushed to `folder`, and return the files."""
    if prompts:
        shutil.copytree(store.folder, folder / "run", ignore=shutil.ignore_patterns("report", "run.lock*", "*.part"))
        copy = Store.open(folder / "run")
    else:
        without_prompts.write(store, folder / "run")
        copy = Store.open(folder / "run")
    report.write([copy], folder / "report")
    parquet.write(copy, folder)
    replace_file(folder / "README.md", card(copy, repo, prompts))
    for name in ("run.lock", "run.lock.json"):
        (folder / "run" / name).unlink(missing_ok=True)
    return sorted(path for path in folder.rglob("*") if path.is_file())


def card(store: Store, repo: str, prompts: bool) -> str:
    """Return the card of the dataset: what was run, its tables, and how to read and repeat it."""
    manifest = store.manifest
    about = f"{len(manifest.strategies)} decoding strategies of {manifest.model.name} on {len(manifest.tasks)} tasks"
    left_out = "" if prompts else " Prompts and expected answers are left out; the tasks have them."
    return "\n".join([
        "---", "tags:", "- decodebench", f"pretty_name: {about}", CONFIGS.rstrip(), "---", "", f"# {about}", "",
        f"Measured with decodebench on {manifest.created[:10]}: `{manifest.command}`", "",
        tables.markdown(summarise(store)).rstrip(), "",
        "`report/index.html` is the page of the run, `samples.parquet` and `steps.parquet` have its figures."
        f"{left_out}",
        "The folder `run` is the run itself:", "", "```console",
        f"$ hf download {repo} --repo-type dataset --local-dir results", "$ decodebench report results/run", "```", ""])
