"""One prompt on the page: its tokens, the tree of a step, playback, and answers side by side."""

from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, expect

from harness import report
from harness.report import answers, page
from harness.store.schema import Expected, Record, StepTree, Turn
from tests.browser.conftest import Visit
from tests.runs import manifest, realistic, record, strategy, task, turn, write

HOSTILE = "</script><img src=x onerror='window.hacked = 1'><b>{{ 1 }}</b>"


def two(folder: Path, slow: Turn, fast: Turn, expected: str = "", other: str = "speculative") -> str:
    """The page of greedy's right and another strategy's wrong answer to one prompt."""
    described = manifest([strategy("greedy"), strategy(other, "speculative")], [task("math", examples=1)])
    store = write(folder, described, [])
    for spec, answer, score in (("greedy", slow, 1), (other, fast, 0)):
        store.append(record("math", "e", spec, [answer], score))
    store.write_expected([Expected(task="math", example="e", text=expected)])
    return page.render([store])


def texts(seen: Page, selector: str) -> list[str]:
    return [str(one.text_content()) for one in seen.locator(selector).all()]


def attributes(seen: Page, selector: str, name: str) -> list[str]:
    return [str(one.get_attribute(name)) for one in seen.locator(selector).all()]


def test_tokens_show_how_they_came_to_be(tmp_path: Path, visit: Visit) -> None:
    """One drafting run by hand: kinds, steps and what is said of them."""
    words = ["The", " cat", " sat", " on", " the", " mat", "."]
    one = turn([1, 4, 2], [0.1, 0.2, 0.1], ids=list(range(7)), text="".join(words), drafted=[0, 3, 3],
               accepted=[0, 3, 1])
    ends = [sum(map(len, words[:count])) for count in range(1, 8)]
    one = one.model_copy(update={"ends": ends, "steps": one.steps.model_copy(update={"whole": [0, 1, 0]})})
    seen = visit(two(tmp_path / "run", one, one, "<i>42</i>"), "#math/e/speculative")
    expect(seen.locator("#sample article")).to_have_count(1)
    kinds = ["own", "accepted", "accepted", "accepted", "bonus", "accepted", "corrected"]
    assert attributes(seen, ".tokens .token", "class") == [f"token {kind}" for kind in kinds]
    assert texts(seen, ".tokens .token") == words
    assert attributes(seen, ".tokens .step", "title") == [
        "step 1: 1 token, 100 ms", "step 2: 3 drafted, 3 accepted, 4 tokens, 200 ms",
        "step 3: 3 drafted, 1 accepted, 2 tokens, 100 ms"]
    assert seen.locator(".ribbon g").count() == 3
    assert seen.locator("article .facts").get_attribute("class") == "facts wrong"
    assert texts(seen, "#sample > details pre") == ["prompt", "<i>42</i>"]
    assert seen.locator(".legend").text_content() == "accepted 4bonus 1corrected 1own 1"
    seen.locator(".ribbon g").nth(1).hover()
    assert attributes(seen, ".lit", "data-step") == ["1", "1"]


def test_answers_are_played_at_their_recorded_times(tmp_path: Path, visit: Visit) -> None:
    """Greedy takes 7 s for seven tokens, the other 2 s for two steps: after 3 s greedy is not done."""
    slow, fast = turn([1] * 7, [1.0] * 7, text="abcdefg"), turn([1, 6], [1.0, 1.0], text="abcdefg")
    ends = {"ends": list(range(1, 8))}
    html = two(tmp_path / "run", slow.model_copy(update=ends), fast.model_copy(update=ends))
    seen = visit(html, "#math/e/greedy/speculative?show=tokens")
    seen.clock.install()
    seen.get_by_role("button", name="play at recorded times").click()
    seen.clock.run_for(3100)
    assert [seen.locator("article").nth(lane).locator(".unborn").count() for lane in (0, 1)] == [4, 0]
    assert seen.locator(".clock").inner_text().startswith("3.")
    seen.clock.run_for(5000)
    assert seen.locator(".unborn").count() == 0
    assert seen.locator(".clock").inner_text() == "7.0 s for the slowest"


def test_the_draft_of_a_step_is_drawn_as_a_tree(tmp_path: Path, visit: Visit) -> None:
    """Step 2 drafts five tokens in two branches, and accepts two of them; the third is no draft."""
    one = turn([1, 3], [0.1, 0.2], ids=[1, 2, 3, 4], text="a b<c d", drafted=[0, 5], accepted=[0, 2])
    tree = StepTree(step=1, tokens=[2, 9, 3, 8, 7], parents=[-1, -1, 0, 0, 1], path=[0, 2],
                    texts=[" b", " x", "<c", "\n", "</script>"])
    one = one.model_copy(update={"ends": [1, 3, 5, 7], "trees": [tree]})
    seen = visit(two(tmp_path / "run", one, one), "#math/e/speculative")
    expect(seen.locator(".tree")).to_have_count(1)
    nodes = [(kind, seen.locator(".tree text").nth(number).evaluate("(node) => node.lastChild.data"))
             for number, kind in enumerate(attributes(seen, ".tree text", "class"))]
    assert nodes == [("taken", "␣b"), ("left", "␣x"), ("taken", "<c"), ("left", "⏎"), ("left", "</script>")]
    assert attributes(seen, ".tree path", "class") == ["taken", "left", "taken", "left", "left"]
    assert seen.locator(".tree").get_attribute("aria-label") == "5 drafted tokens, 2 accepted:  b<c"
    assert texts(seen, ".trees option") == ["draft of step 2"]


def test_pictures_of_prompts_and_of_accepted_drafts(tmp_path: Path, visit: Visit) -> None:
    """Two drafts of three tokens, one accepted whole and one to its first token, at twice greedy's speed."""
    drafting = turn([1, 4, 2], [0.1, 0.2, 0.1], drafted=[0, 3, 3], accepted=[0, 3, 1])
    seen = visit(two(tmp_path / "run", turn([1] * 7, [0.1] * 8), drafting), "#math")
    prompts, drafts = (f"[aria-label='{name}'] circle" for name in
                       ("Speed-up of each prompt", "Acceptance of drafts by position"))
    expect(seen.locator(drafts)).to_have_count(3)
    assert texts(seen, f"{drafts} title") == [f"speculative: the first {k} accepted in {share} % of drafts that long"
                                              for k, share in ((1, 100), (2, 50), (3, 50))]
    assert seen.locator(prompts).locator("..").locator("title").all_text_contents() == [
        "speculative, e: 2 times as fast"]
    seen.locator(prompts).click()
    expect(seen.locator("#sample .crumbs")).to_have_text("math / e")


def test_four_answers_are_compared_word_by_word(tmp_path: Path, visit: Visit) -> None:
    html = page.render([realistic(tmp_path / "run")])
    seen = visit(html, "#nano_math/nano_math%2F2/greedy")
    pick = seen.get_by_label("Compare with another strategy")
    for count in (2, 3, 4):
        pick.select_option(index=count - 1)
        expect(seen.locator("#sample article")).to_have_count(count)
    assert pick.count() == 0, "four at most"
    first, other = (seen.locator("#sample article").nth(number) for number in (0, 1))
    whole = str(other.locator("pre").text_content())
    changed = "".join(other.locator("mark").all_text_contents())
    assert 0 < len(changed) < len(whole)
    assert whole != first.locator("pre").text_content()
    seen.reload()
    expect(seen.locator("#sample article")).to_have_count(4)
    seen.locator("#sample article").nth(1).get_by_role("link", name="remove").click()
    expect(seen.locator("#sample article")).to_have_count(3)


def test_what_models_and_data_write_stays_text(tmp_path: Path, visit: Visit) -> None:
    words = turn([1, 1], [0.1, 0.1], ids=[1, 2], text=HOSTILE, prompt=HOSTILE, drafted=[0, 2], accepted=[0, 1])
    tree = StepTree(step=1, tokens=[1, 2], parents=[-1, 0], path=[0], texts=[HOSTILE, HOSTILE])
    words = words.model_copy(update={"ends": [5, len(HOSTILE)], "trees": [tree]})
    spec, name, example = f"x:a={HOSTILE}", f"t_{HOSTILE}", f"e{HOSTILE}"
    described = manifest([strategy("greedy"), strategy("speculative", "speculative")], [task(name, examples=1)],
                         [HOSTILE])
    described = described.model_copy(update={"strategies": [
        described.strategies[0], described.strategies[1].model_copy(update={"spec": spec})]})
    store = write(tmp_path / "run", described, [])
    for one in ("greedy", spec):
        answer = record(name, example, one, [words], 0).model_copy(update={"reason": HOSTILE})
        store.append(answer)
        store.append(answer.model_copy(update={"sample": 1, "turns": [], "status": "failed", "error": HOSTILE}))
    store.write_expected([Expected(task=name, example=example, text=HOSTILE)])
    parts = [quote(part, safe="") for part in (name, example, "greedy", spec)]
    html = page.render([store])
    for fragment in ("#all", f"#{parts[0]}?columns=all", "#" + "/".join(parts[:3]), "#" + "/".join(parts),
                     "#" + "/".join([*parts, "?show=tokens"]), "#" + "/".join(parts[:3]) + "?sample=1"):
        seen = visit(html, fragment)
        seen.wait_for_timeout(150)
        assert seen.evaluate("[window.hacked ?? 0, document.images.length, document.querySelectorAll('b').length]") == [
            0, 0, 0], fragment
    assert HOSTILE in str(seen.locator("#sample").text_content())


def records_of(examples: int) -> list[Record]:
    return [record("math", f"e{number}", spec, [turn([1], [0.1], text=f"{spec} says {number}")], 1)
            for number in range(examples) for spec in ("greedy", "beam")]


def test_answers_beside_the_page_are_loaded_when_one_is_opened(tmp_path: Path, visit: Visit,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of two examples, of which none fits into the page; a page that is written again tidies them up."""
    monkeypatch.setattr(answers, "BLOCK", 4)
    monkeypatch.setattr(answers, "EMBEDDED", 0)
    store = write(tmp_path / "run", manifest([strategy("greedy"), strategy("beam", "search")],
                                             [task("math", examples=5)]), records_of(5))
    index = report.write([store], tmp_path / "report").page
    beside = index.parent / "answers"
    assert len(list(beside.iterdir())) == 3
    seen = visit(index, "#math/e3/greedy/beam")
    expect(seen.locator("#sample pre").last).to_have_text("beam says 3")
    assert seen.locator("head script").count() == 1
    seen.keyboard.press("ArrowRight")
    expect(seen.locator("#sample pre").last).to_have_text("beam says 4")
    before = {path.name for path in beside.iterdir()}
    shorter = write(tmp_path / "other", store.manifest, records_of(3))
    report.write([shorter], index.parent)
    assert len(list(beside.iterdir())) == 2
    assert len(before & {path.name for path in beside.iterdir()}) == 1  # the first block is the same


def test_answers_that_are_missing_are_asked_for_in_words(tmp_path: Path, visit: Visit,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "EMBEDDED", 0)
    store = write(tmp_path / "run", manifest([strategy("greedy"), strategy("beam", "search")],
                                             [task("math", examples=2)]), records_of(2))
    html = report.write([store], tmp_path / "report").page.read_text(encoding="utf-8")
    seen = visit(html, "#math/e1/greedy", missing=True)
    expect(seen.locator("#sample .warning")).to_contain_text('copy the folder "answers" with the page')
