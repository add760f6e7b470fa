"""Does the report look as it should in a real browser, wide and narrow, light and dark, and does it keep to itself?

Screenshots go to the directory that EVOHBDE_SCREENSHOTS names, where it is set.
"""

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from evohbde.comparison import Comparison
from evohbde.history import History
from evohbde.plots import draw_run
from evohbde.reductions import HistogramBlocking
from evohbde.report.blocks import Cell, Table
from evohbde.report.page import render
from evohbde.report.read import read_run
from evohbde.report_command import report_page
from evohbde.rundir import save_run
from tests.browser.browser import browser
from tests.made_up_comparison import all_runs, failed_run, made_up_settings, write_comparison
from tests.made_up_run import ENTRIES, RECORD, ROWS

VIEWS = [(width, scheme) for width in (1280, 400) for scheme in ("light", "dark")]

LONG = "a_name_without_any_space_in_it_that_is_longer_than_a_phone_is_wide_and_goes_on"


@pytest.fixture(scope="module")
def window(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page with all there is: two runs, one of them with long names, and a comparison that is not finished."""
    folder = tmp_path_factory.mktemp("page")
    theta = torch.randn(2_000, generator=torch.Generator().manual_seed(0))
    figures = draw_run(theta, HistogramBlocking(theta, 100), ROWS, ENTRIES)
    history = History()
    for row in ROWS:
        history.add(row)
    records = [RECORD, replace(RECORD, seed=8, notes=[LONG, f"1 {LONG}"], switches={LONG: LONG})]
    for number, record in enumerate(records):
        save_run(folder / f"run-{number}", record, history, nn.Linear(2, 2), figures)
    settings = made_up_settings(("HistogramBlocking", "Identity"))
    runs = [run for run in all_runs(settings) if run["seed"] < 6]
    runs.append(failed_run("DE", "Identity", 6, f"ValueError: {LONG}"))
    comparison = Comparison.load(write_comparison(folder / "comparison", settings, runs))
    saved = [read_run(folder / f"run-{number}") for number in range(2)]
    path = folder / "report.html"
    path.write_text(report_page(saved, [(f"comparison-{LONG}", comparison)]))
    return path


def keep(image: bytes, name: str) -> None:
    if os.environ.get("EVOHBDE_SCREENSHOTS"):
        folder = Path(os.environ["EVOHBDE_SCREENSHOTS"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(image)


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_nothing_is_cut_off_and_no_texts_overlap(window, page, width, scheme):
    window.look(width, scheme)
    window.open(page)
    assert window.audit() == []
    window.open_details()
    assert window.audit() == []
    keep(window.screenshot(), f"report-{width}-{scheme}.png")


@pytest.mark.parametrize(
    ("broken", "fault"),
    [
        ("one.style.cssText = 'position: absolute; left: 1200px; width: 200px'", "cut off"),
        ("one.style.cssText = 'position: relative; top: -1.5em'", "lies on"),
        ("one.style.cssText = 'min-width: 3000px'", "the page is"),
    ],
)
def test_the_audit_finds_what_is_broken(window, page, broken, fault):
    window.look(1280, "light")
    window.open(page)
    window.run(f"for (const one of document.querySelectorAll('main p')) {{ {broken} }}")
    assert any(fault in found for found in window.audit())


def test_nothing_is_fetched_and_nothing_is_refused(window, page):
    window.look(1280, "light")
    window.requests(), window.complaints()
    window.open(page)
    window.open_details()
    assert window.run("return [...document.images].every((one) => one.complete && one.naturalWidth > 0)")
    fetched = [url for url in window.requests() if not url.startswith("data:image/png;base64,")]
    assert fetched == [page.as_uri()]
    assert window.complaints() == []


@pytest.mark.parametrize(
    "attack",
    [
        "const one = document.createElement('script'); one.text = 'window.caught = 1'; document.body.append(one);",
        "const one = new Image(); one.src = 'file:///nowhere.png'; document.body.append(one);",
        "document.body.insertAdjacentHTML('beforeend', '<p onclick=\"window.caught = 1\">x</p>');"
        "document.body.lastElementChild.click();",
    ],
)
def test_the_policy_refuses_what_an_attacker_would_add(window, page, attack):
    window.open(page)
    window.complaints()
    window.run(attack)
    assert window.run("return window.caught === undefined")
    assert any("Content Security Policy" in words for words in window.complaints())


def column(window, number):
    return window.run(
        "return [...document.querySelector('table').tBodies[0].rows].map((row) => row.cells[arguments[0]].textContent)",
        number,
    )


@pytest.fixture
def small(tmp_path):
    rows = [("b10", 2.0), ("b9", None), ("a", 10.0), ("c", -1.5), ("B9", 1e-7)]
    cells = [[Cell(text), Cell("" if key is None else f"{key:.7f}", key)] for text, key in rows]
    path = tmp_path / "small.html"
    path.write_text(render("Sorting", "", [Table("A table", ("name", "score"), cells)]))
    return path


def test_a_click_sorts_numbers_by_value_and_names_as_people_count(window, small):
    window.look(1280, "light")
    window.open(small)
    name, score = window.driver.find_elements("css selector", "th button")
    score.click()
    assert column(window, 0) == ["c", "B9", "b10", "a", "b9"], "an empty cell comes last"
    score.click()
    assert column(window, 0) == ["a", "b10", "B9", "c", "b9"], "also downwards"
    name.click()
    assert column(window, 0)[0] == "a" and column(window, 0)[-2:] == ["b10", "c"]


def test_the_heading_says_which_way_it_sorts_and_answers_to_the_keyboard(window, small):
    from selenium.webdriver.common.keys import Keys

    def directions():
        return [heading.get_attribute("aria-sort") for heading in window.driver.find_elements("css selector", "th")]

    window.open(small)
    assert directions() == [None, None]
    body = window.driver.find_element("tag name", "body")
    for _ in range(10):
        body.send_keys(Keys.TAB)
        focused = window.driver.switch_to.active_element
        if focused.tag_name == "button" and "score" in focused.text:
            break
    focused.send_keys(Keys.ENTER)
    assert directions() == [None, "ascending"]
    focused.send_keys(Keys.SPACE)
    assert directions() == [None, "descending"]
    assert column(window, 0)[0] == "a"


def paper(window):
    """Colour of the page, from 0 for black to 255 for white."""
    color = window.run("return getComputedStyle(document.body).backgroundColor")
    return sum(map(float, re.findall(r"[\d.]+", color)[:3])) / 3


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_system_and_the_button_turns_it_round(window, small, scheme):
    window.look(1280, scheme)
    window.open(small)
    button = window.driver.find_element("id", "theme")
    before, pressed = paper(window), button.get_attribute("aria-pressed")
    button.click()
    after = paper(window)
    assert pressed == str(scheme == "dark").lower() != button.get_attribute("aria-pressed")
    dark, light = (before, after) if scheme == "dark" else (after, before)
    assert dark < 50 and light > 230


CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const light = (color) => {
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const paper = light(getComputedStyle(document.body).backgroundColor);
return [...document.body.querySelectorAll("*")].filter((one) => one.checkVisibility()).map((one) => {
  const ink = light(getComputedStyle(one).color);
  return [(Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05), one.outerHTML.slice(0, 60)];
}).sort((one, other) => one[0] - other[0])[0];
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_that_guidelines_ask_for(window, page, scheme):
    window.look(1280, scheme)
    window.open(page)
    window.open_details()
    ratio, where = window.run(CONTRAST)
    assert ratio >= 4.5, where
