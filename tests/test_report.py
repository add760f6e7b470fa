"""Does the page say what happened, and can it do no harm?"""

import re
from base64 import b64decode, b64encode
from dataclasses import replace
from hashlib import sha256
from html.parser import HTMLParser

import pytest

from evohbde.record import Origin
from evohbde.report import NO_FIGURES, run_page, verdict
from evohbde.statistics import Interval
from tests.made_up_run import ENTRIES, RECORD, with_gain

HOSTILE = "<script>alert('&\"x\"')</script><img src=http://example.org/x.png onerror=alert(1)>"
VOID = {"meta", "img", "br", "hr"}


class Page(HTMLParser):
    """Everything on a page: its tags with attributes, and its text; fails on tags that are not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)


def assert_self_contained(page: Page) -> None:
    allowed = {"html", "head", "meta", "title", "style", "script", "body", "header", "nav", "main", "section", "h1"}
    allowed |= {"h2", "h3", "h4", "p", "div", "table", "caption", "thead", "tbody", "tr", "th", "td", "ul", "li", "a"}
    allowed |= {"figure", "figcaption", "img", "pre", "button", "details", "summary"}
    assert {name for name, _ in page.tags} <= allowed
    for name, attributes in page.tags:
        assert not {key for key in attributes if key.startswith("on") or key in ("srcset", "style", "action")}
        assert "src" not in attributes or (name == "img" and attributes["src"].startswith("data:image/png;base64,"))
        assert "href" not in attributes or (name == "a" and attributes["href"].startswith("#"))


def test_a_page_needs_nothing_else():
    text = run_page(RECORD, {"scores.png": b"one", "weights.png": b"two"})
    page = Page(text)
    assert_self_contained(page)
    assert "http" not in text.lower().replace("http-equiv", "") and "url(" not in text and "@import" not in text
    images = [attributes["src"] for name, attributes in page.tags if name == "img"]
    assert [b64decode(source.partition(",")[2]) for source in images] == [b"one", b"two"]
    assert all(attributes["alt"] for name, attributes in page.tags if name == "img")


def test_only_the_style_and_the_script_of_the_page_may_act():
    text = run_page(RECORD, {"scores.png": b"one"})
    policy = next(tag["content"] for _, tag in Page(text).tags if tag.get("http-equiv") == "Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert (rules["default-src"], rules["img-src"]) == ("'none'", "data:")
    for tag in ("style", "script"):
        contents = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        hashes = [f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'" for content in contents]
        assert len(contents) == 1 and rules[f"{tag}-src"].split() == hashes


def test_names_from_outside_stay_text():
    record = replace(
        RECORD,
        preset=HOSTILE,
        notes=[HOSTILE],
        switches={HOSTILE: HOSTILE},
        arguments={HOSTILE: [HOSTILE]},
        entries=[replace(entry, name=HOSTILE) for entry in ENTRIES],
        environment=replace(RECORD.environment, device=HOSTILE, commit=HOSTILE, packages={HOSTILE: HOSTILE}),
        origin=Origin(HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, HOSTILE),
    )
    hostile, harmless = Page(run_page(record, {HOSTILE: b"x"})), Page(run_page(RECORD, {"x.png": b"x"}))
    assert_self_contained(hostile)
    assert hostile.count("img") == harmless.count("img") == 1
    assert hostile.text.count(HOSTILE) >= 12


def test_the_table_has_the_numbers_of_every_network():
    text = Page(run_page(RECORD, {})).text
    for entry in ENTRIES:
        assert all(cell in text for cell in entry.cells())
    for number in ("0.6543 [0.6301, 0.6799]", "+0.0474 [+0.0251, +0.0698]", "0.7122", "1.2345", "150,000", "897"):
        assert number in text


def test_it_says_how_to_run_it_again():
    text = Page(run_page(RECORD, {})).text
    for words in (
        "evohbde tune problems.digits:mlp --set seed=1",
        "seed 7",
        "num_bins 10000",
        "torch 2.15.0",
        "0123abc",
    ):
        assert words in text
    assert RECORD.notes[0] in text


def test_a_run_without_origin_has_no_command():
    page = Page(run_page(replace(RECORD, origin=None), {}))
    assert page.count("pre") == 0
    assert page.text.startswith("A network: hbde-2024")


@pytest.mark.parametrize(
    ("gain", "words"),
    [
        (Interval(0.05, 0.03, 0.07), "The network is better."),
        (Interval(-0.05, -0.07, -0.03), "The network is worse."),
        (Interval(0.01, -0.02, 0.04), "do not show a difference"),
        (Interval(0.0, 0.0, 0.0), "do not show a difference"),
    ],
)
def test_the_verdict_follows_the_interval(gain, words):
    sentence = verdict(with_gain(gain))
    assert words in sentence
    assert f"{gain.value:+.4f} (95 % interval {gain.lower:+.4f} to {gain.upper:+.4f})" in sentence
    assert "from 0.6543 to 0.7017" in sentence


def test_an_interrupted_run_says_so():
    assert (
        "interrupted before its budget was spent" in Page(run_page(replace(RECORD, stop_reason="interrupted"), {})).text
    )
    assert "interrupted" not in Page(run_page(RECORD, {})).text


def test_missing_figures_are_explained():
    assert NO_FIGURES in Page(run_page(RECORD, {})).text
    assert NO_FIGURES not in Page(run_page(RECORD, {"scores.png": b"x"})).text


def test_it_follows_light_and_dark_and_small_screens():
    page = Page(run_page(RECORD, {"scores.png": b"x"}))
    assert "prefers-color-scheme: dark" in page.text and "color-scheme: light dark" in page.text
    assert any(attributes.get("name") == "viewport" for _, attributes in page.tags)
    names = [name for name, _ in page.tags]
    wrapped = [names[i + 1] for i, (_, attributes) in enumerate(page.tags) if attributes.get("class") == "scroll"]
    assert wrapped.count("table") == page.count("table") and wrapped.count("img") == page.count("img")
