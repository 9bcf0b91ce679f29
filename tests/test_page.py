"""The page in a real browser, Debian's chromium: it shows, sorts and filters, and runs and asks for nothing else."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from conftest import written
from made import table as made

from kd.report import figures, verdict
from kd.report import page as report
from kd.report.figures import style, wording
from kd.report.figures import verdict as verdict_figure

CHROMIUM = shutil.which("chromium")
sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the extra dev")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs chromium: apt-get install chromium"),
]
EVIL = "</script></style><script>window.ran = 1</script><img src='https://example.org/x' onerror='window.ran = 1'>"
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study whose names try to break out of it."""
    folder = tmp_path_factory.mktemp("made")
    teacher = made.frame([made.cell_row("teachers", (("wrn-28-4", "ce", 0),))])
    table = pd.concat([made.lose(made.losses(("wrn-16-2",)), "mse", 1), teacher], ignore_index=True)
    table = table.assign(experiment=table["experiment"].replace("losses", EVIL), device=EVIL)
    rows = table[table["experiment"] == EVIL]
    lines = verdict.judged(table)
    shown = []
    for name, more in (("dots", pd.DataFrame()), ("curves", made.curves(rows, 20))):
        drawn, caption = figures.draw(name, rows, more)
        written(style.pictures(drawn, name), folder)
        narrow = style.pictures(figures.draw(name, rows, more, "column")[0], f"{name}.column")
        written({f"{name}.column.svg": narrow[f"{name}.column.svg"]}, folder)
        shown.append((EVIL, name, folder / f"{name}.svg", f"{caption}\n{wording.METHOD}"))
    with style.paper():
        glance = verdict_figure.draw(lines.assign(setting=verdict.shown(lines)["setting"]))
    written(style.pictures(glance, "verdict"), folder)
    study = {"name": EVIL, "trained": [EVIL], "counts": {EVIL: 1}, "commands": [EVIL], "versions": EVIL}
    page = report.render(study, table, shown, (folder / "verdict.svg", verdict.caption(lines), lines))
    (folder / "report.html").write_text(page, encoding="utf-8")
    return folder / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def opened(browser: object) -> Iterator[Callable]:
    """Open a file, and check at the end that the page said nothing to the console and asked for nothing else."""
    seen, contexts = [], []

    def opened(path: Path, **options: object) -> object:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: seen.append(message.text))
        page.on("pageerror", lambda error: seen.append(str(error)))
        page.on("dialog", lambda dialog: seen.append(dialog.message))
        page.on("request", lambda asked: None if asked.url.startswith(path.as_uri()) else seen.append(asked.url))
        page.goto(path.as_uri())
        return page

    yield opened
    for context in contexts:
        context.close()
    assert [text for text in seen if not text.startswith("data:image/png;base64,")] == []


def test_the_page_shows_and_no_name_in_it_runs(file: Path, opened: Callable) -> None:
    page = opened(file)
    assert page.locator("h1").inner_text() == EVIL
    assert page.locator("p.lead").count() == 3
    assert page.locator("figure > svg:visible").count() == 3
    assert page.evaluate("window.ran") is None
    assert page.locator("img, iframe, object").count() == 0


def test_the_policy_of_the_page_runs_nothing_that_slips_in(file: Path, tmp_path: Path, browser: object) -> None:
    text = file.read_text(encoding="utf-8")
    holed = tmp_path / "holed.html"
    slipped = "<script>window.ran = 1</script><img src='data:,' onerror='window.ran = 1'>"
    holed.write_text(text.replace("</main>", f"{slipped}</main>"), encoding="utf-8")
    refused = []
    page = browser.new_page()
    page.on("console", lambda message: refused.append(message.text))
    page.goto(holed.as_uri())
    assert page.evaluate("window.ran") is None
    assert sum("Content Security Policy" in text for text in refused) >= 1
    page.locator("th button").first.click()  # the page's own script runs
    assert page.locator("th[aria-sort]").count() == 1
    page.close()


def test_a_mark_says_its_number_where_the_pointer_is(file: Path, opened: Callable) -> None:
    page = opened(file)
    tip = page.locator("#tip")
    assert tip.is_hidden()
    mark = page.locator("figure svg [data-tip*='KL τ=3']").first
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)
    assert re.search(r"KL τ=3\ntest top-1 \(%\).*: [\d.]+", tip.inner_text())
    page.mouse.move(0, 0)
    assert tip.is_hidden()


def test_the_table_of_networks_sorts_by_size_and_by_letter(file: Path, opened: Callable) -> None:
    page = opened(file)
    column = "#cells tbody tr td:nth-child(6)"
    head = page.get_by_role("button", name="test (%)")
    head.click()
    found = page.locator(column).all_inner_texts()
    assert found[-1] == "diverged"
    assert [float(one) for one in found[:-1]] == sorted(float(one) for one in found[:-1])
    assert page.locator("#cells th[aria-sort]").get_attribute("aria-sort") == "ascending"
    head.click()
    assert page.locator(column).all_inner_texts() == found[::-1]
    page.get_by_role("button", name="objectives").click()
    words = page.locator("#cells tbody tr td:nth-child(2)").all_inner_texts()
    assert list(dict.fromkeys(words)) == ["CE", "KL τ=1", "KL τ=3", "KL τ=20", "KL τ=∞", "MSE"]


def test_the_table_of_networks_filters_and_its_links_lead_to_rows(file: Path, opened: Callable) -> None:
    page = opened(file)
    assert page.locator("output").inner_text() == "19 of 19"
    page.get_by_label("Only rows with").fill("mse cifar100")
    assert page.locator("output").inner_text() == "3 of 19"
    assert page.locator("#cells tbody tr:visible td:nth-child(2)").all_inner_texts() == ["MSE"] * 3
    page.locator("#cells tbody tr:visible th a").first.click()
    teacher = page.locator("tr:target")
    assert teacher.is_visible()
    assert teacher.locator("th").inner_text() == "WRN-28-4"
    assert page.locator("output").inner_text() == "19 of 19"


def test_a_phone_has_rows_of_text_and_nothing_runs_off_its_side(file: Path, opened: Callable) -> None:
    page = opened(file, viewport=PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
    assert page.locator(".at-a-glance").is_hidden()
    shown = page.locator("figure > svg:visible")
    assert shown.count() == 2
    for number in range(2):
        scale = shown.nth(number).evaluate("svg => svg.clientWidth / svg.viewBox.baseVal.width")
        assert 7 * scale >= 9  # pixels; a figure's smallest letters have 7 points
    assert page.locator(".in-text td[data-label=verdict]").first.is_visible()
    assert opened(file).locator(".in-text td[data-label=verdict]").first.is_hidden()


def test_the_page_is_dark_where_the_reader_wants_it_and_unfolded_in_print(file: Path, opened: Callable) -> None:
    page = opened(file, color_scheme="dark")

    def light(what: str) -> int:
        colour = page.evaluate(f"getComputedStyle(document.body).{what}")
        return sum(int(part) for part in colour.partition("(")[2].rstrip(")").split(",")[:3])

    assert light("backgroundColor") < 100 < 600 < light("color")
    folded = page.locator("details:not([open]) td, details:not([open]) li").first
    assert folded.is_hidden()
    page.emulate_media(media="print")
    assert light("color") < 100 < 600 < light("backgroundColor")
    assert folded.is_visible()
    assert page.locator(".filter").is_hidden()
