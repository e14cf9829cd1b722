"""The command line: what it imports, what it refuses and how, and one run from the first token to the report."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import requires
from pathlib import Path

import pytest

from harness.cli.aliases import OPTIONS
from harness.plugins.registry import STRATEGIES, TASKS
from harness.run.runner import Outcome, Watcher
from harness.store.config import BACKENDS, RunConfig
from harness.store.folder import Store
from tests import runs
from tests.pair import saved
from tests.plugins import BROKEN, TASK
from tests.program import call

ROOT = Path(__file__).resolve().parents[3]
HEAVY = {"torch", "transformers", "evaluate", "datasets", "pandas", "matplotlib", "vllm", "numpy", "scipy"}
@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STRATEGIES, "_files", {})
    monkeypatch.setattr(TASKS, "_files", {})
    monkeypatch.setenv("COLUMNS", "80")


def plugin(folder: Path, name: str, text: str) -> Path:
    path = folder / f"{name}.py"
    path.write_text(text, encoding="utf-8")
    return path


def options(folder: Path, *more: object) -> list[object]:
    """A small run on a tiny saved model."""
    return ["run", "-m", saved("llama"), "-t", "words", "--plugin", plugin(folder, "words", TASK), "--threads", 1,
            "-o", folder / "run", *more]


LIGHT = ("--help", "--version", "list strategies", "list tasks --json", "list models", "list backends", "run --help",
         "run --limit 0", "run --nothing", "verify --help", "run -s beam:widht=4", "run -s baem", "run -t nano_mth",
         "run --preset sped", "--show-completion bash", "run --plugin absent.py", "verify -s topp",
         "sweep -s beam:widht=4", "run -m nanoo", "run -m ./absent", "run -m absent.gguf", "run -m nano:float3",
         "run --draft nano-draf", "run --tokenizer nanoo", "run --scorer nanoo", "run --dtype float3",
         "verify -m nanoo", "sweep -s beam -m nanoo")


def test_help_lists_and_refusals_import_nothing_heavy() -> None:
    """In one process, one after the other: what one of them imports is there after all that follow."""
    code = (f"import sys\nfrom harness.cli import main\nfor line in {LIGHT!r}:\n"
            "    sys.argv = ['decodebench', *line.split()]\n    try:\n        main()\n"
            "    except SystemExit:\n        pass\n"
            "    print('|', line, '|', *sorted({name.partition('.')[0] for name in sys.modules}),\n"
            "          *sorted(name for name in sys.modules if name.startswith(('strategies.', 'tasks.'))))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    after = [line.split("|") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [line.strip() for _, line, _ in after] == list(LIGHT)
    for _, line, modules in after:
        names = set(modules.split())
        assert "harness" in names
        assert not HEAVY & names, line
        assert not [name for name in names if "." in name], f"{line} imports a plugin"


def test_help_names_the_commands_and_nothing_else() -> None:
    text = call("--help").stdout
    assert [line.split()[0] for line in text.partition("Commands:")[2].split("\n") if line.strip()] == [
        "run", "report", "view", "compare", "judge", "plan-jobs", "status", "merge", "limits", "verify", "check",
        "sweep", "study", "train-head", "list", "show", "export", "import", "push", "doctor"]
    assert max(map(len, text.splitlines())) <= 80
    assert "..." not in text.partition("Commands:")[2], "a command's help does not fit on its line"


def test_every_setting_has_an_option() -> None:
    text = call("run", "--help").stdout
    named = {"strategies": "--strategy", "tasks": "--task", "plugins": "--plugin",
             "template_args": "--template-arg", "heads": "--head"}
    for field in RunConfig.__dataclass_fields__:
        assert field == "baseline" or named.get(field, f"--{field.replace('_', '-')}") in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_version_is_printed() -> None:
    assert call("--version").stdout.strip() == "0.1.0"


@pytest.mark.parametrize(("arguments", "words"), [
    (["rn"], "No such command 'rn'. Did you mean 'run'?"),
    (["run", "--limt", "3"], "No such option: --limt (Possible options: --limit"),
    (["run", "--limit"], "Option '--limit' requires an argument."),
    (["run", "--limit", "x"], "Invalid value for '--limit'"),
    (["run", "--limit", "0"], "--limit must be at least 1, not 0."),
    (["run", "--samples", "-1"], "--samples must be at least 1, not -1."),
    (["run", "--concurrency", "0"], "--concurrency must be at least 1, not 0."),
    (["run", "--backend", "transformer"], "There is no backend 'transformer'. Did you mean 'transformers'?"),
    (["run", "--config", "absent.toml"], "There is no configuration file absent.toml."),
    (["run", "--plugin", "absent.py"], "There is no plugin file absent.py."),
    (["run", "-s", "top_pp"], "There is no strategy 'top_pp'. Did you mean 'top_p'?"),
    (["run", "-s", "top_p:q=1"], "top_p has no knob 'q'. Known: p, temperature."),
    (["run", "-t", "nano_mat"], "There is no task 'nano_mat'. Did you mean 'nano_math'?"),
    (["list"], "Missing argument 'KIND'."),
    (["list", "strategy"], "There is no list of 'strategy'. Did you mean 'strategies'?"),
    (["list", "tasks", "--plugin", "absent.py"], "There is no plugin file absent.py."),
    (["show", "topp"], "There is no strategy, task or study 'topp'. Did you mean 'top_p'?"),
    (["report"], "Missing argument 'DIR'."),
    (["report", "absent"], "absent holds no run"),
    (["compare", "absent", "too"], "absent holds no run"),
    (["compare", "a"], "Missing argument 'B'."),
    (["compare", "a", "b", "--diffs", "-1"], "--diffs must be at least 0, not -1."),
])
def test_wrong_input_is_one_sentence_and_exit_code_2(arguments: list[str], words: str, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = call(*arguments)
    assert done.exit_code == 2
    assert done.stderr.startswith(f"Error: {words}")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = call(*options(tmp_path, "-s", "greedy", "-o", tmp_path / "file" / "run"))
    assert done.exit_code == 2
    assert done.stderr.splitlines()[-1].startswith(f"Error: {tmp_path / 'file' / 'run'}")


@pytest.mark.parametrize(("kind", "some"), [("strategies", "greedy"), ("tasks", "gsm8k"), ("models", "nano"),
                                            ("backends", "transformers")])
def test_lists_are_sorted_fit_and_say_what_each_thing_is(kind: str, some: str) -> None:
    lines = call("list", kind).stdout.splitlines()
    assert all(len(line) <= 80 for line in lines)
    rows = json.loads(call("list", kind, "--json").stdout)
    assert [line.split()[0] for line in lines if not line.startswith(" ")] == [row["name"] for row in rows]
    known = [row["name"] for row in rows if row["name"].islower()]
    assert some in known
    assert known == sorted(known)
    assert all(row["idea"] and set(row) == {"name", "idea", "origin"} for row in rows)
    assert kind != "backends" or set(known) == set(BACKENDS)


def test_a_plugin_file_is_listed_and_shown(tmp_path: Path) -> None:
    words, broken = plugin(tmp_path, "words", TASK), plugin(tmp_path, "broken", BROKEN)
    listed = call("list", "tasks", "--plugin", words, "--plugin", broken, "--json")
    assert {"name": "words", "idea": "Words to go on from.", "origin": str(words)} in json.loads(listed.stdout)
    shown = call("show", "broken", "--plugin", broken)
    assert shown.exit_code == 0
    assert "Fails at once." in shown.stdout
    assert f"decodebench run -s broken --plugin {broken}" in " ".join(shown.stdout.split())


@pytest.mark.parametrize("name", [*STRATEGIES.built_in(), *TASKS.built_in()])
def test_everything_built_in_can_be_shown(name: str) -> None:
    done = call("show", name)
    assert done.exit_code == 0
    text = " ".join(done.stdout.split())
    registry, option = (STRATEGIES, "-s") if name in STRATEGIES.built_in() else (TASKS, "-t")
    found = registry.get(name)
    assert f"decodebench run {option} " in text
    assert f"{name}.py" in text.replace(" ", "")
    assert all(f" {knob} " in text and about.help in text for knob, about in found.knobs().items())
    assert all(len(line) <= 80 or line.startswith("    ") for line in done.stdout.splitlines())


def test_a_strategy_over_others_says_so() -> None:
    text = " ".join(call("show", "top_p+self_consistency:n=3").stdout.split())
    assert "over any strategy [temperature:temperature=0.7]" in text
    assert "decodebench run -s 'top_p+self_consistency:n=5'" in text


def test_a_spec_is_shown_as_its_strategy() -> None:
    assert "mass of the nucleus" in call("show", "top_p:p=0.5").stdout


def test_a_run_is_run_reported_resumed_and_reported_again(tmp_path: Path) -> None:
    arguments = options(tmp_path, "-s", "top_p:p=0.9", "--limit", 2)
    first = call(*arguments)
    assert first.exit_code == 0, first.stderr
    page = tmp_path / "run" / "report" / "index.html"
    assert page.exists()
    assert first.stdout.splitlines()[-1] == f"Report: {page}"
    assert "words" in first.stdout
    assert "top_p" in first.stdout
    assert "4 samples in" in first.stderr
    assert "4/4" in first.stderr
    assert len(list(Store.open(tmp_path / "run").records())) == 4
    again = call(*arguments)
    assert again.exit_code == 0
    assert "4 samples (4 already done)" in again.stderr
    assert again.stdout == first.stdout
    elsewhere = call("report", tmp_path / "run", "-o", tmp_path / "elsewhere")
    assert elsewhere.exit_code == 0
    assert (tmp_path / "elsewhere" / "index.html").exists()
    assert call(*options(tmp_path, "--seed", 1)).exit_code == 2, "another run does not go into the same folder"


def test_reports_of_several_runs_go_to_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a", "b"):
        runs.write(Path(folder), runs.manifest([runs.strategy("greedy")], [runs.task("words")]),
                   [runs.record("words", "1", "greedy", [runs.turn([1, 1], [0.5, 0.5])], score=1.0)])
    done = call("report", "a", "b")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "Report: report/index.html"
    assert done.stdout.count("greedy") >= 2


def test_failed_samples_are_exit_code_3(tmp_path: Path) -> None:
    done = call(*options(tmp_path, "--plugin", plugin(tmp_path, "broken", BROKEN), "-s", "broken"))
    assert done.exit_code == 3
    assert done.stderr.splitlines()[-1].startswith("3 of 6 samples failed: see ")
    assert "3 failed" in done.stderr
    assert "broken" in done.stdout


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[RunConfig]:
    """The configurations that runs were asked for; none is run."""
    found: list[RunConfig] = []

    def run(config: RunConfig, watcher: Watcher, command: str, start_over: bool) -> Outcome:
        found.append(config)
        raise KeyboardInterrupt

    monkeypatch.setattr("harness.run.runner.run", run)
    return found


def test_options_override_the_file(asked: list[RunConfig], tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text('model = "nano-draft"\nstrategies = ["beam"]\nlimit = 3\nseed = 7\nallow_code_execution = true\n')
    call("run", "--config", file)
    call("run", "--config", file, "-s", "greedy", "-s", "top_p", "--seed", 0, "--truncate-prompts", "-o", "out")
    assert asked[0] == RunConfig(model="nano-draft", strategies=("beam",), limit=3, seed=7, allow_code_execution=True)
    assert asked[1] == RunConfig(model="nano-draft", strategies=("greedy", "top_p"), limit=3, seed=0,
                                 allow_code_execution=True, truncate_prompts=True, output=Path("out"))


def test_every_option_reaches_the_run(asked: list[RunConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plugin(tmp_path, "p", BROKEN)
    call("run", "-m", "a/m", "--draft", "a/d", "--tokenizer", "a/t", "--template-arg", "a=1", "--rope", "yarn:4",
         "-s", "greedy", "-t", "gsm8k", "--limit", 1, "--concurrency", 2, "--samples", 3, "--repeats", 4,
         "--max-new-tokens", 5, "--seed", 6, "--backend", "transformers", "--dtype", "float16", "--device", "cpu",
         "--threads", 7, "--data", "data", "--plugin", "p.py", "--allow-code-execution", "--truncate-prompts",
         "--no-texts", "--scorer", "a/s", "--trace", "full", "--output", "o")
    assert asked == [RunConfig(
        model="a/m", draft="a/d", tokenizer="a/t", template_args=("a=1",), rope="yarn:4", strategies=("greedy",),
        tasks=("gsm8k",), limit=1, concurrency=2, samples=3, repeats=4, max_new_tokens=5, seed=6,
        backend="transformers", dtype="float16", device="cpu", threads=7, data=Path("data"), plugins=(Path("p.py"),),
        allow_code_execution=True, truncate_prompts=True, texts=False, scorer="a/s", trace="full", output=Path("o"))]
    call("run")
    assert asked[1] == RunConfig()


def test_names_of_other_tools_work_and_help_shows_ours(asked: list[RunConfig]) -> None:
    call("run", "--strategies", "greedy,beam:width=4,length_penalty=0", "--tasks", "gsm8k,humaneval", "--max-tokens", 5,
         "--draft-model", "a/d", "--num-samples", 3, "--batch-size", 2)
    assert asked == [RunConfig(strategies=("greedy", "beam:width=4,length_penalty=0"), tasks=("gsm8k", "humaneval"),
                               max_new_tokens=5, draft="a/d", samples=3, concurrency=2)]
    assert "--key-variable is for a server" in call("run", "--api-key-env", "KEY").stderr
    for command in ("run", "sweep", "check"):
        text = call(command, "--help").stdout
        assert not [name for name in OPTIONS if f"--{name}" in text and name != "batch-size"], command
    assert "--by must be quality, speed or forwards" in call("sweep", "-s", "beam", "--objective", "x").stderr
    assert "none holds no run" in call("check", "none", "--update-baseline", "b.json").stderr


@pytest.mark.parametrize(("command", "module"), [("verify", "harness.verify.checker"),
                                                 ("sweep", "harness.sweep.sweep")])
def test_the_tokenizer_and_its_template_reach_every_command(command: str, module: str,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[RunConfig]()

    def interrupted(config: RunConfig, *_: object) -> None:
        asked.append(config)
        raise KeyboardInterrupt
    monkeypatch.setattr(f"{module}.{command}", interrupted)
    given = ["--tokenizer", "a/t", "--template-arg", "a=1", "--rope", "yarn:4"]
    assert call(command, "-s", "top_p", *given).exit_code == 130
    assert [(one.tokenizer, one.template_args, one.rope) for one in asked] == [("a/t", ("a=1",), "yarn:4")]


def test_an_interrupted_run_says_how_to_go_on(asked: list[RunConfig]) -> None:
    done = call("run")
    assert done.exit_code == 130
    assert done.stderr == "Stopped: the same command resumes.\n"


@pytest.mark.crash
def test_a_run_stopped_by_a_signal_is_resumed(tmp_path: Path) -> None:
    arguments = [str(a) for a in options(tmp_path, "-s", "top_p", "--repeats", 30)]
    records = tmp_path / "run" / "records" / "0000.jsonl"
    with subprocess.Popen([sys.executable, "-m", "harness.cli", *arguments], cwd=ROOT, text=True,
                          stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"},
                          # a shell's background jobs ignore Ctrl-C, and so would this one if the tests are such a job
                          preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler)) as process:
        end = time.monotonic() + 120
        while time.monotonic() < end and not (records.exists() and records.stat().st_size) and process.poll() is None:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    page = tmp_path / "run" / "report" / "index.html"
    assert errors.splitlines()[-2:] == ["Stopped: the same command resumes.", f"Page of the finished samples: {page}"]
    assert page.exists()
    assert "Traceback" not in errors
    done = call(*options(tmp_path, "-s", "top_p", "--repeats", 30))
    assert done.exit_code == 0, done.stderr
    assert "180 samples (" in done.stderr
    keys = [record.key for record in Store.open(tmp_path / "run").records()]
    assert len(keys) == len(set(keys)) == 180


def test_the_doctor_says_what_works() -> None:
    done = call("doctor")
    lines = [line.split() for line in done.stdout.splitlines() if not line.startswith(" ")]
    states = {line[1]: line[0] for line in lines}
    assert list(states) == ["python", "packages", "torch", "nano", "evaluate", "sandbox", "vllm", "openai", "data"]
    assert {states[name] for name in ("python", "torch", "evaluate")} == {"ok"}
    assert done.exit_code == ("broken" in states.values())


def test_the_doctor_compares_installed_versions_with_the_tested_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.cli import doctor

    monkeypatch.setattr(doctor, "CHECKS", {"packages": doctor.CHECKS["packages"]})
    lines = (ROOT / "harness" / "cli" / "constraints.txt").read_text().splitlines()
    pins = dict(line.partition(" ;")[0].split("==") for line in lines if not line.startswith("#"))
    installed = dict(pins)
    monkeypatch.setattr(doctor, "version", installed.__getitem__)
    count = len([line for line in requires("decodebench") or () if "extra ==" not in line])
    assert call("doctor").stdout == f"ok       packages  {count} of {count} are the tested versions\n"
    installed |= {"torch": f"{pins['torch']}+cu130", "numpy": "99.0", "pydantic": "2.9.0", "rich": "99.1"}
    assert call("doctor").stdout == (
        f"ok       packages  {count - 3} of {count} are the tested versions; newer than tested: numpy 99.0 "
        f"({pins['numpy']}), rich 99.1 ({pins['rich']}); older than tested: pydantic 2.9.0 ({pins['pydantic']})\n")
    installed["transformers"] = "6.0.0"
    broken = call("doctor")
    assert broken.exit_code == 1
    assert "transformers 6.0.0 is outside the supported range <6,>=5.16.1\n" in broken.stdout


def test_the_doctor_tells_missing_from_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from harness.cli import doctor

    def fails() -> str:
        raise ImportError("no such thing\nand more")

    (tmp_path / "gsm8k").mkdir()
    monkeypatch.setenv("DECODEBENCH_DATA", str(tmp_path))
    monkeypatch.setattr(doctor, "CHECKS", {"data": doctor.CHECKS["data"]})
    assert call("doctor").stdout == f"ok       data      {tmp_path}: gsm8k\n"
    monkeypatch.delenv("DECODEBENCH_DATA")
    missing = call("doctor")
    assert missing.exit_code == 0
    assert missing.stdout.startswith("missing  data      ")
    monkeypatch.setattr(doctor, "CHECKS", {"torch": (fails, "pip install torch")})
    broken = call("doctor")
    assert broken.exit_code == 1
    assert broken.stdout == f"broken   torch     no such thing\n{'':19}→ pip install torch\n"


@pytest.mark.parametrize("command", ["run", "sweep", "verify", "judge"])
def test_the_batch_size_is_named_beside_the_concurrency(command: str) -> None:
    text = " ".join(call(command, "--help").stdout.split())
    assert "--concurrency, --batch-size N" in text
    assert "sequences decoded in one batch (continuous batching)" in text


def test_the_batch_size_reaches_the_run(asked: list[RunConfig]) -> None:
    call("run", "--batch-size", 4)
    assert asked == [RunConfig(concurrency=4)]
