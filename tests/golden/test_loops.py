"""The table of loops has the figures of the report, and of answers that a strategy ended."""

import subprocess
import sys
from pathlib import Path

from benchmarks.loops import loop_tables
from harness.measure.texts import answers_of, text_table
from harness.store.folder import Store
from tests.runs import manifest, record, strategy, task, turn, write

ROOT = Path(__file__).resolve().parents[2]
RING, LINE = "a b c " + "d e f " * 3, "a b c d e f"


def test_loops_ends_and_tokens(tmp_path: Path) -> None:
    kinds = manifest([strategy("greedy"), strategy("loop_breaker:then=cut", "anti-repetition")], [task("nano_story")])
    records = [record("nano_story", f"{number}", "greedy", [turn([1] * 12, [0.1] * 12, text=text)], 0.5)
               for number, text in enumerate((RING, LINE))]
    records += [record("nano_story", f"{number}", "loop_breaker:then=cut",
                       [turn([1] * 6, [0.1] * 6, text=LINE, stop=stop)], 0.75)
                for number, stop in enumerate(("ended", "eos"))]
    found = loop_tables([write(tmp_path / "run", kinds, records)]).splitlines()
    assert found[0] == "**run: nano_story**"
    greedy, cut = (line.split(" | ") for line in found[4:])
    assert greedy[:6] == ["| `greedy`", "50%", "0%", "12", "0%", "0.50 [0.50, 0.50]"]
    assert cut[:6] == ["| `loop_breaker`", "0%", "50%", "6", "50%", "0.75 [0.75, 0.75]"]
    assert (greedy[6], cut[6]) == ("0.33", "0.50"), "6 of 18 words, and 6 of 12"
    assert cut[8].startswith("1.00 ")


def test_a_real_run_has_the_figures_of_its_report() -> None:
    store = Store.open(ROOT / "results" / "smollm2" / "mt_bench")
    known, lines = text_table(store, answers_of(store)), loop_tables([store]).splitlines()[4:]
    known = known[known["strategy"] != "reference"]
    assert len(lines) == len(known) == 10
    for line, (_, row) in zip(lines, known.iterrows(), strict=True):
        cells = line.split(" | ")
        assert (cells[1], cells[7]) == (f"{row['loops']:.0%}", f"{row['distinct_2']:.2f}")
        assert cells[5] == "–", "nobody has judged these answers"


def test_a_missing_run_is_one_sentence(tmp_path: Path) -> None:
    for given in ([], [str(tmp_path / "none")]):
        called = subprocess.run([sys.executable, "-m", "benchmarks.loops", *given], cwd=ROOT, capture_output=True,
                                text=True, check=False)
        assert called.returncode == 1
        assert called.stderr.count("\n") == 1
        assert not called.stdout
