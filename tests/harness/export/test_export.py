"""Exports, read by readers that share no code with them."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from harness.errors import UserError
from harness.export import EXPORTS, export, file_names
from harness.measure.raw import COUNTS
from harness.measure.summary import samples, summarise
from harness.store.folder import Store
from harness.store.schema import Record
from tests.program import call
from tests.runs import STRATEGIES, manifest, realistic, record, strategy, task, turn, write

ROOT = Path(__file__).resolve().parents[3]
GREEDY, SPEC, BEAM = "greedy", "speculative:k=4", "beam:width=4"


def of(category: str, one: Record) -> Record:
    return one.model_copy(update={"category": category})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Two questions of MT-Bench's kind (one in two turns), one translation; words stand for tokens, EOS has no text."""
    described = manifest([strategy(GREEDY), strategy(SPEC, "speculative"), strategy(BEAM, "search")],
                         [task("mt_bench", unscored="no judge"), task("translation")])
    return write(tmp_path / "run", described, [
        of("writing", record("mt_bench", "mt_bench/81", GREEDY, [turn([1] * 4, [0.1] * 4, text=" a b c "),
                                                                 turn([1] * 2, [0.2] * 2, text="d")])),
        of("math", record("mt_bench", "mt_bench/82", GREEDY, [turn([1] * 5, [0.1] * 5, text="a b c d")])),
        record("translation", "wmt/161", GREEDY, [turn([1] * 3, [0.1] * 3, text="x y")], 1),
        of("writing", record("mt_bench", "mt_bench/81", SPEC, [
            turn([1, 3], [0.1, 0.1], text=" a b c\n", drafted=[0, 4], accepted=[0, 2]),
            turn([1, 1], [0.1, 0.1], text="d", drafted=[0, 4])])),
        of("math", record("mt_bench", "mt_bench/82", SPEC, [turn([1, 2, 2], [0.1, 0.05, 0.1], text="a b c d")])),
        record("translation", "wmt/161", SPEC, [turn([1, 2], [0.2, 0.4], text="x y")], 0),
        of("writing", record("mt_bench", "mt_bench/81", BEAM, [turn([4], [0.5]), turn([2], [0.5])])),
        of("math", record("mt_bench", "mt_bench/82", BEAM, error="RuntimeError: out of memory")),
        record("translation", "wmt/161", BEAM, [turn([3], [0.5], text="x y")], 1),
    ])


# What Spec-Bench's evaluation/speed.py prints, from its published formulas and the fields that it reads.

MT_BENCH = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")


def spec_bench_rows(path: Path, subtask: str) -> list[Any]:
    wanted: Callable[[str], bool] = {"overall": lambda _: True, "mt_bench": MT_BENCH.__contains__}.get(
        subtask, lambda category: category == subtask)
    return [row for row in map(json.loads, path.read_text("utf-8").splitlines()) if wanted(row["category"])]


def spec_bench_speed(path: Path, base: Path, count: Callable[[str], int], subtask: str) -> tuple[float, float, float]:
    """Mean accepted tokens, tokens a second, and the baseline's; `count` is the length of a text's token ids."""
    ours, theirs = ([row["choices"][0] for row in spec_bench_rows(one, subtask)] for one in (path, base))
    return (float(np.mean([length for one in ours for length in one["accept_lengths"]])),
            float(np.mean([sum(one["new_tokens"]) / sum(one["wall_time"]) for one in ours])),
            float(np.mean([sum(count(text) - 1 for text in one["turns"]) / sum(one["wall_time"]) for one in theirs])))


def words_with_bos(text: str) -> int:
    return 1 + len(text.split())


def test_spec_bench_reads_the_numbers_that_we_report(store: Store, tmp_path: Path) -> None:
    done = export(store, "spec-bench", tmp_path / "out")
    base, ours, beam = done.files
    assert [path.name for path in done.files] == ["greedy.jsonl", "speculative.jsonl", "beam.jsonl"]
    assert done.notes == ["1 failed sample is left out"]
    accepted, speed, speed_base = spec_bench_speed(ours, base, words_with_bos, "mt_bench")
    assert accepted == pytest.approx((3 + 1 + 2 + 2) / 4)
    assert speed == pytest.approx((6 / 0.4 + 5 / 0.25) / 2)
    assert speed_base == pytest.approx((4 / 0.8 + 4 / 0.5) / 2)  # of 6 and 5 tokens the EOS has no text
    row = summarise(store).set_index(["task", "strategy"]).loc[("mt_bench", SPEC)]
    assert accepted == row["tau_pooled"]
    assert spec_bench_speed(base, base, words_with_bos, "overall")[0] == 1.0
    assert spec_bench_speed(ours, base, words_with_bos, "translation")[1] == pytest.approx(5)
    assert [row["question_id"] for row in spec_bench_rows(ours, "overall")] == [81, 82, 161]
    assert [row["question_id"] for row in spec_bench_rows(beam, "overall")] == [81, 161]


def test_the_rows_are_spec_benchs(store: Store, tmp_path: Path) -> None:
    first = spec_bench_rows(export(store, "spec-bench", tmp_path / "out").files[1], "overall")[0]
    assert {"question_id", "category", "answer_id", "model_id", "choices", "tstamp"} <= set(first)
    assert first["choices"] == [{"index": 0, "turns": ["a b c", "d"], "decoding_steps": [1, 1], "new_tokens": [4, 2],
                                 "wall_time": [0.2, 0.2], "accept_lengths": [3, 1]}]


@pytest.mark.slow
def test_spec_bench_agrees_on_the_committed_run(tmp_path: Path) -> None:
    """For each task of it: accepted tokens to the last digit, and the macro mean of speeds from the raw records."""
    store = Store.open(ROOT / "results" / "speculative")
    files = export(store, "spec-bench", tmp_path / "out").files
    summary, frame = summarise(store), samples(store)
    of_strategy = dict(zip(summary["strategy"].unique(), files, strict=True))
    for _, row in summary.dropna(subset=["tau_pooled"]).iterrows():  # a search has no step but the first
        mine = frame[(frame["task"] == row["task"]) & (frame["strategy"] == row["strategy"])]
        lines = of_strategy[row["strategy"]].read_text("utf-8").splitlines(keepends=True)
        (tmp_path / "task.jsonl").write_text("".join(line for line in lines if json.loads(line)["task"] == row["task"]))
        found = spec_bench_speed(tmp_path / "task.jsonl", tmp_path / "task.jsonl", words_with_bos, "overall")
        assert found[0] == row["tau_pooled"]
        assert found[1] == pytest.approx((mine["tokens"] / mine["seconds"]).mean(), rel=1e-12)


def test_repeats_are_runs_and_samples_are_choices(tmp_path: Path) -> None:
    described = manifest([strategy(GREEDY)], [task("math")])
    answers = [record("math", name, GREEDY, [turn([1], [0.5])], 1, sample, None, repeat)
               for repeat in (0, 1) for name in "ab" for sample in (0, 1)]
    store = write(tmp_path / "run", described, answers)
    done = export(store, "spec-bench", tmp_path / "out")
    assert [str(path.relative_to(tmp_path / "out")) for path in done.files] == ["run_1/greedy.jsonl",
                                                                               "run_2/greedy.jsonl"]
    rows = spec_bench_rows(done.files[1], "math")
    assert [row["question_id"] for row in rows] == [1, 2]  # no numbers in the names
    assert [choice["index"] for choice in rows[0]["choices"]] == [0, 1]


def test_files_of_different_strategies_never_have_one_name() -> None:
    assert file_names({"a": "x:k=1", "b": "x-k=1", "c": "y"}) == {"a": "x-k=1", "b": "x-k=1-2", "c": "y"}


def test_lm_eval_logs_have_its_fields(store: Store, tmp_path: Path) -> None:
    done = export(store, "lm-eval", tmp_path / "out")
    assert [str(path.relative_to(tmp_path / "out")) for path in done.files][:2] == [
        "greedy/samples_mt_bench_2025-03-01T12-00-00.jsonl", "greedy/samples_translation_2025-03-01T12-00-00.jsonl"]
    row, _ = map(json.loads, done.files[0].read_text().splitlines())
    assert {"doc_id", "doc", "target", "arguments", "resps", "filtered_resps", "filter", "metrics", "doc_hash",
            "prompt_hash", "target_hash"} <= set(row)
    assert row["arguments"]["gen_args_1"]["arg_0"] == "prompt"
    assert row["resps"] == [[" a b c "], ["d"]]
    scored = json.loads(done.files[1].read_text())
    assert (scored["metrics"], scored["accuracy"]) == (["accuracy"], 1.0)
    utils = pytest.importorskip("lm_eval.utils")
    assert row["prompt_hash"] == utils.hash_string("prompt")
    assert row["doc_hash"] == utils.hash_string(json.dumps(row["doc"], indent=2, ensure_ascii=False))


# A strict reader of the LaTeX that we may write: anything that it does not know is an error.

MACROS = {"begin", "end", "centering", "caption", "toprule", "midrule", "bottomrule", "textbackslash", "textasciitilde",
          "textasciicircum", "textless", "textgreater", "textbar", "textquotedbl", "dots", "tau", "times", "mathbf",
          "pm", "multicolumn", "textit"}
MATH = {"tau", "times", "mathbf", "pm"}


def latex_cells(text: str) -> list[list[str]]:
    """The rows of all tables; asserts that groups, environments, math and columns match."""
    depth, math, open_, rows = 0, False, list[str](), list[list[str]]()
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    for token in re.findall(r"\\[A-Za-z]+|\\.|[^\\]", body, re.S):
        if token.startswith("\\") and token[1:].isalpha():
            assert token[1:] in MACROS, token
            assert math or token[1:] not in MATH, token
        elif token.startswith("\\"):
            assert token[1] in "{}&%$#_\\,", token
        depth += (token == "{") - (token == "}")
        assert depth >= 0
        math ^= token == "$"
        assert token not in "#~%\"<>|", token
        assert math or token not in "_^", token
        assert ord(token[-1]) < 0x100
    assert (depth, math) == (0, False)
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if kind == "begin":
            open_.append(name)
        else:
            assert open_.pop() == name
    assert not open_
    for columns, inside in re.findall(r"\\begin\{tabular\}\{([lrc]+)\}(.*?)\\end\{tabular\}", body, re.S):
        lines = re.sub(r"\\(top|mid|bottom)rule", "", inside).strip().split("\\\\\n")
        found = [re.split(r"(?<!\\)&", line.removesuffix("\\\\")) for line in lines]
        assert all(len(line) == len(columns) for line in found), found
        rows += [[cell.strip() for cell in line] for line in found]
    return rows


def test_latex_tables(tmp_path: Path) -> None:
    described = manifest([strategy(GREEDY), strategy(SPEC, "speculative"), strategy(BEAM, "search"),
                          strategy("medusa", "speculative", unsupported="100 % _missing_")],
                         [task(r"m_1 & $x^2~{\"} <é|ω>")], [r"odd \input{x} % #"])
    name = described.tasks[0].spec
    store = write(tmp_path / "run", described, [
        *(record(name, str(i), GREEDY, [turn([1, 1], [0.1, 0.1])], i % 2) for i in range(4)),
        *(record(name, str(i), SPEC, [turn([1, 1], [0.1, 0.1 - 0.02 * i])], i % 2) for i in range(4)),
        *(record(name, str(i), BEAM, [turn([2], [0.4])], 1) for i in range(4))])
    text = export(store, "latex", tmp_path / "out").files[0].read_text()
    head, greedy, spec, beam, medusa = latex_cells(text)
    assert head == ["strategy", "quality", "speed-up", r"$\tau$"]
    assert greedy == ["greedy", r"$0.500 \pm 0.500$", "$1.00$", r"$\mathbf{1.00}$"]
    assert spec[3] == r"$\mathbf{1.00}$"
    row = summarise(store).set_index("strategy").loc[SPEC]
    assert spec[2] == (rf"$\mathbf{{{row['speedup']:.2f}}}_{{-{row['speedup'] - row['speedup_low']:.2f}}}"
                       rf"^{{+{row['speedup_high'] - row['speedup']:.2f}}}$")
    assert beam[1].startswith(r"$\mathbf{1.000}_{-")  # Wilson's interval: nothing above 1
    assert beam[1].endswith("^{+0.000}$")
    assert beam[3] == "--"
    assert medusa == ["medusa", r"\multicolumn{1}{l}{\textit{not supported}}", "--", "--"]
    assert r"m\_1 \& \$x\textasciicircum{}2\textasciitilde{}\{\textbackslash{}\textquotedbl{}\}" in text
    assert text.startswith("% ")


def test_latex_of_a_large_run_compiles(tmp_path: Path) -> None:
    path = export(realistic(tmp_path / "run"), "latex", tmp_path / "out").files[0]
    assert len(latex_cells(path.read_text())) == 4 * 11
    if shutil.which("pdflatex"):
        (path.parent / "all.tex").write_text("\\documentclass{article}\\usepackage{booktabs}\\begin{document}\n"
                                             "\\input{summary}\\end{document}\n")
        subprocess.run(["pdflatex", "-halt-on-error", "all.tex"], cwd=path.parent, check=True, capture_output=True)


def raw(store: Store, name: str) -> Iterable[Any]:
    return (value for one in store.records() for each in one.turns for value in getattr(each.steps, name))


def test_parquet_comes_back_typed_and_whole(store: Store, tmp_path: Path) -> None:
    one, steps = map(pd.read_parquet, export(store, "parquet", tmp_path / "out").files)
    assert len(one) == 9
    assert list(one["texts"].iloc[0]) == [" a b c ", "d"]
    assert [list(ids) for ids in one["token_ids"].iloc[0]] == [[0, 1, 2, 3], [0, 1]]
    assert one["status"].astype(str).tolist().count("failed") == 1
    assert one.loc[one["status"] == "failed", "tokens"].isna().all()
    mine = samples(store)
    for name in ("tokens", "seconds", "ttft", "decode_tokens", "forwards", "score_accuracy"):
        np.testing.assert_array_equal(one[name].astype(float), mine[name].astype(float))
    for name in ("tokens", "seconds", *COUNTS):
        assert steps[name].tolist() == list(raw(store, name))
    assert str(steps["tokens"].dtype) == "int32"
    assert str(steps["strategy"].dtype) == "category"
    later = steps[(steps["strategy"] == SPEC) & (steps["task"] == "mt_bench") & (steps["step"] > 0)]
    summary = summarise(store).set_index(["task", "strategy"])
    assert later["tokens"].mean() == summary.loc[("mt_bench", SPEC), "tau_pooled"]
    assert steps.groupby(["example", "turn"], observed=True)["step"].max().loc[("mt_bench/81", 1)] == 1


def test_github_benchmark_knows_what_is_better(store: Store, tmp_path: Path) -> None:
    bigger, smaller = (json.loads(path.read_text()) for path in export(store, "github-benchmark", tmp_path).files)
    found = {entry["name"]: entry for entry in bigger}
    row = summarise(store).set_index(["task", "strategy"]).loc[("mt_bench", SPEC)]
    entry = found["mt_bench / speculative / speedup"]
    assert (entry["value"], entry["unit"]) == (row["speedup"], "x")
    assert entry["range"] == f"{row['speedup_low']:.4g} to {row['speedup_high']:.4g}"
    assert "mt_bench / greedy / quality" not in found  # no judge
    assert "translation / greedy / quality" in found
    assert {entry["name"].rpartition(" ")[2] for entry in smaller} == {
        "forwards_per_token", "draft_forwards_per_token", "positions_per_token", "ttft_median"}
    assert all(np.isfinite(entry["value"]) for entry in bigger + smaller)


def test_a_run_without_prompts_has_all_the_figures(tmp_path: Path) -> None:
    store = realistic(tmp_path / "run")
    (store.folder / "divergences.jsonl").write_text("")
    prompted = [one.model_copy(update={"turns": [turn.model_copy(update={"prompt": "Secret?"}) for turn in one.turns]})
                for one in store.records()]
    store.replace_records(lambda _: iter(prompted))
    exported = export(store, "without-prompts", tmp_path / "copy")
    copy = Store.open(tmp_path / "copy")
    assert [path.name for path in exported.files] == ["divergences.jsonl", "manifest.json", "0000.jsonl"]
    assert not any("Secret?" in path.read_text() for path in exported.files)
    assert len(list(copy.records())) == len(prompted)
    pd.testing.assert_frame_equal(summarise(copy), summarise(store), atol=1e-4, rtol=1e-3)
    with pytest.raises(UserError, match="is the run itself"):
        export(copy, "without-prompts", tmp_path / "copy")


@pytest.mark.parametrize("format", EXPORTS)
def test_every_format_takes_any_run(format: str, tmp_path: Path) -> None:
    realistic(tmp_path / "run", examples=2, strategies=STRATEGIES[::4])
    empty = write(tmp_path / "empty", manifest([strategy(GREEDY)], [task("math")]), [])
    for folder in (tmp_path / "run", empty.folder):
        done = call("export", folder, "--format", format)
        assert done.exit_code == 0, done.output
        paths = [Path(line) for line in done.stdout.splitlines()]
        assert all(path.is_file() and path.parent.is_relative_to(folder / "export" / format) for path in paths)
        first = {path: path.read_bytes() for path in paths}
        assert call("export", folder, "--format", format).exit_code == 0
        assert {path: path.read_bytes() for path in paths} == first


def test_wrong_input_to_export(store: Store, tmp_path: Path) -> None:
    near = call("export", store.folder, "--format", "spec_bench")
    assert (near.exit_code, "Did you mean 'spec-bench'?" in near.stderr) == (2, True)
    assert call("export", tmp_path, "--format", "latex").exit_code == 2
    assert call("export", store.folder).exit_code == 2
    untimed = write(tmp_path / "untimed", manifest([strategy(GREEDY)], [task("math")]),
                    [record("math", "a", GREEDY, [turn([], [])], 1)])
    refused = call("export", untimed.folder, "--format", "spec-bench")
    assert refused.exit_code == 2
    assert "without a time (such as a by greedy)" in refused.stderr
    assert not (untimed.folder / "export").exists()
