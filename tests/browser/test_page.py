import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from harness.report import page
from tests.browser.conftest import AXE, Visit
from tests.runs import realistic

ACTIVE = "document.activeElement"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return page.render([realistic(tmp_path_factory.mktemp("runs") / "run")])


def table(seen: Page, name: str) -> Locator:
    return seen.locator(f"[data-name={name}] table.main")


def names(rows: Locator) -> list[str]:
    """The strategies of the rows that are shown."""
    return [str(row.get_attribute("data-name")) for row in rows.all() if row.is_visible()]


def sorted_by(rows: Locator, column: str) -> list[str]:
    return [str(row.locator(f"td[data-label='{column}']").get_attribute("data-sort")) for row in rows.all()]


def hash_of(seen: Page) -> str:
    return str(seen.evaluate("location.hash"))


def test_the_verdict_comes_first(text: str, visit: Visit) -> None:
    seen = visit(text)
    first = seen.locator("main > section:visible h2").first
    assert first.inner_text() == "Verdict"
    assert "to keep greedy's answers take" in seen.locator(".verdict li").first.inner_text()
    assert seen.locator(".pictures svg").first.is_visible()


def test_columns_sort_both_ways_with_the_unknown_last(text: str, visit: Visit) -> None:
    seen = visit(text, "#nano_math")
    rows, head = table(seen, "nano_math").locator("tbody tr"), table(seen, "nano_math").locator("thead")
    button = head.locator("[data-key=speedup] button")
    button.click()
    down = sorted_by(rows, "speed-up")
    assert head.locator("[aria-sort=descending]").inner_text() == "speed-up"
    assert hash_of(seen) == "#nano_math?sort=-speedup"
    button.click()
    up = sorted_by(rows, "speed-up")
    known = [float(value) for value in down[:-1]]
    assert known == sorted(known, reverse=True)
    assert [float(value) for value in up[:-1]] == sorted(known)
    assert down[-1] == up[-1] == ""  # the strategy that could not run
    head.get_by_role("button", name="strategy").click()
    assert names(rows) == sorted(names(rows))
    assert head.locator("[aria-sort]").count() == 1


def test_a_tab_shows_its_task_alone_and_keeps_the_filters(text: str, visit: Visit) -> None:
    seen = visit(text, "#nano_code?family=search")
    shown = seen.locator("main > section:visible")
    assert [one.get_attribute("data-name") for one in shown.all()] == ["nano_code"]
    left = names(table(seen, "nano_code").locator("tbody tr"))
    assert left
    assert all("beam" in name for name in left)
    seen.get_by_role("link", name="mt_bench").click()
    assert [one.get_attribute("data-name") for one in shown.all()] == ["mt_bench"]
    assert seen.locator("nav [aria-current]").inner_text() == "mt_bench"
    assert hash_of(seen) == "#mt_bench?family=search"


def test_filters_narrow_tables_and_pictures_down(text: str, visit: Visit) -> None:
    seen = visit(text)
    rows, points = seen.locator("#board tbody tr"), seen.locator("[data-name=all] .pictures .point")
    before, drawn = len(names(rows)), points.count()
    seen.get_by_role("searchbox", name="Find a strategy").fill("Beam")
    beams = names(rows)
    assert beams
    assert all("beam" in name for name in beams)
    assert seen.locator("#left").inner_text() == f"{len(beams)} of {before} strategies"
    assert points.count() == len(beams) < drawn
    assert hash_of(seen) == "#all?text=Beam"
    seen.get_by_role("searchbox", name="Find a strategy").fill("")
    seen.get_by_label("quality at least").fill("0.6")
    good = [float(str(row.get_attribute("data-quality"))) for row in rows.all() if row.is_visible()]
    assert good
    assert min(good) >= 0.6
    seen.get_by_label("quality at least").fill("")
    seen.get_by_label("Answers", exact=True).select_option("changed")
    changed = seen.locator("#board tbody tr:visible .badge")
    assert set(changed.all_inner_texts()) == {"changed"}
    seen.get_by_label("without a draft model").check()
    assert "draft=no" in hash_of(seen)


def test_an_address_opens_the_same_view_again(text: str, visit: Visit) -> None:
    fragment = "#nano_math?family=search&sort=-speedup&columns=all"
    seen = visit(text, fragment)
    assert hash_of(seen) == fragment
    assert seen.get_by_label("Family").input_value() == "search"
    assert table(seen, "nano_math").locator("[aria-sort=descending]").inner_text() == "speed-up"
    for name in names(table(seen, "nano_math").locator("tbody tr")):
        assert "beam" in name


def test_further_columns_are_shown_on_request(text: str, visit: Visit) -> None:
    seen = visit(text, "#nano_math")
    visible = table(seen, "nano_math").locator("thead th:visible")
    assert visible.count() == 6
    seen.get_by_role("button", name="More columns").click()
    assert visible.count() > 12
    assert hash_of(seen) == "#nano_math?columns=all"


def test_every_cell_stands_below_its_title(text: str, visit: Visit) -> None:
    """Also in the rows of strategies that failed or could not run, with few columns and with all."""
    for fragment in ("#nano_math", "#nano_math?columns=all"):
        part = table(visit(text, fragment), "nano_math")
        titles = part.locator("thead th:visible").all_inner_texts()
        for row in part.locator("tbody tr").all():
            shown = [cell.get_attribute("data-label") for cell in row.locator("td[data-label]:visible").all()]
            assert shown == titles[1:1 + len(shown)]
    assert "failed" in part.locator("[data-name^=contrastive] th").inner_text()


def test_a_point_of_a_picture_leads_to_its_row(text: str, visit: Visit) -> None:
    seen = visit(text, "#nano_math")
    point = seen.locator("[data-name=nano_math] [aria-label='Speed-ups with intervals'] .point").first
    label = str(point.get_attribute("aria-label")).split(": speed-up")[0]
    point.click()
    assert seen.locator("[data-name=nano_math] tr.lit").get_attribute("data-name") == label


def test_the_answers_lead_to_one_prompt_and_keys_to_the_next(text: str, visit: Visit) -> None:
    seen = visit(text, "#nano_math")
    crumbs = seen.locator("#sample .crumbs")
    assert seen.locator("[data-name=nano_math] .answers tbody tr").count() == 12
    seen.locator("[data-name=nano_math] .answers td a").nth(1).click()
    expect(crumbs).to_have_text("nano_math / nano_math/0")
    assert hash_of(seen).startswith("#nano_math/nano_math%2F0/")
    seen.keyboard.press("ArrowRight")
    expect(crumbs).to_have_text("nano_math / nano_math/1")
    seen.keyboard.press("k")
    expect(crumbs).to_have_text("nano_math / nano_math/0")
    seen.get_by_label("wrong only").check()
    assert hash_of(seen).endswith("?only=wrong")
    seen.go_back()
    expect(crumbs).to_have_text("nano_math / nano_math/1")


def test_the_keyboard_alone_reaches_an_answer_and_compares_it(text: str, visit: Visit) -> None:
    seen = visit(text)
    seen.keyboard.press("Tab")
    seen.keyboard.press("Enter")
    expect(seen.locator("#sample .crumbs")).to_have_text(re.compile("nano_math / nano_math/0"))
    seen.wait_for_function("document.activeElement.closest('#sample') !== null")
    for _ in range(20):
        seen.keyboard.press("Tab")
        if seen.evaluate(f"{ACTIVE}.getAttribute('aria-label')") == "Compare with another strategy":
            break
    seen.keyboard.press("ArrowDown")
    expect(seen.locator("#sample article")).to_have_count(2)
    seen.keyboard.press("ArrowRight")
    expect(seen.locator("#sample .crumbs")).to_have_text("nano_math / nano_math/1")


def test_a_table_is_sorted_by_the_keyboard(text: str, visit: Visit) -> None:
    seen = visit(text)
    for _ in range(30):
        seen.keyboard.press("Tab")
        if seen.evaluate(f"{ACTIVE}.closest('#board thead') !== null"):
            break
    seen.keyboard.press("Enter")
    assert seen.locator("#board [aria-sort]").count() == 1
    assert seen.locator("#status").inner_text().startswith("Sorted by ")


def background(seen: Page) -> int:
    """The brightness of the page's background, from 0 to 255."""
    color = seen.evaluate("getComputedStyle(document.body).backgroundColor")
    return max(map(int, re.findall(r"\d+", color)[:3]))


def test_the_theme_is_that_of_the_system(text: str, visit: Visit) -> None:
    assert background(visit(text, color_scheme="dark")) < 60
    assert background(visit(text, color_scheme="light")) > 200


@pytest.mark.parametrize("fragment", ["#all", "#nano_math", "#nano_math/nano_math%2F2/greedy"])
def test_a_phone_shows_cards_without_scrolling_sideways(text: str, visit: Visit, fragment: str) -> None:
    seen = visit(text, fragment, viewport={"width": 390, "height": 844}, is_mobile=True, has_touch=True)
    seen.wait_for_timeout(200)
    assert seen.evaluate("document.documentElement.scrollWidth") <= 390
    if fragment == "#all":
        assert seen.locator("#board tbody tr").first.evaluate("(row) => getComputedStyle(row).display") != "table-row"
        places = [seen.locator(one).first.bounding_box() for one in ("nav", ".verdict", ".pictures svg", "#board")]
        tops = [place["y"] for place in places if place]
        assert len(tops) == 4
        assert tops == sorted(tops)
        assert tops[1] < 844 / 2, "the verdict is on the first screen"
        assert not seen.locator("#filters").is_visible()
        seen.get_by_text("Filters").tap()
        assert seen.locator("#filters").is_visible()


def test_print_has_all_tasks_and_cuts_nothing(text: str, visit: Visit) -> None:
    seen = visit(text)
    seen.emulate_media(media="print")
    seen.set_viewport_size({"width": 794, "height": 1123})  # A4 at 96 dots an inch
    assert seen.locator("main > section[data-name]:visible").count() == 5
    assert seen.evaluate("document.documentElement.scrollWidth") <= 794
    wide = seen.evaluate("[...document.querySelectorAll('table.main')].filter((one) => "
                         "one.getBoundingClientRect().right > innerWidth + 1).length")
    assert wide == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_finding_of_accessibility_in_any_view(text: str, visit: Visit, scheme: str) -> None:
    seen = visit(text, "#nano_math", color_scheme=scheme)
    rows = names(table(seen, "nano_math").locator("tbody tr"))[:2]
    one, other = (seen.evaluate("encodeURIComponent", row) for row in rows)
    seen.evaluate(AXE + "; 0")
    found = []
    for view in ("#all", "#nano_math?columns=all", f"#nano_math/nano_math%2F2/{one}",
                 f"#nano_math/nano_math%2F2/{one}/{other}"):
        seen.evaluate("(view) => { location.hash = view; }", view)
        seen.wait_for_timeout(200)
        found += [(view, one["id"], one["nodes"][0]["html"]) for one in seen.evaluate("axe.run()")["violations"]
                  if one["impact"] in ("serious", "critical")]
    assert found == []


def test_the_page_says_what_it_is_without_a_script(text: str, visit: Visit, tmp_path: Path) -> None:
    path = tmp_path / "plain.html"
    path.write_text(re.sub(r"<script>\n\"use strict\".*?</script>", "<script>document.documentElement.dataset.ready = "
                           "'true';</script>", text, flags=re.S), encoding="utf-8")
    seen = visit(path)
    assert seen.locator("main > section[data-name]:visible").count() == 5
    assert seen.locator(".scripted:visible").count() == 0
