"""The page of ``--export html`` in a real browser: by keyboard and mouse, light and dark, with hostile data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import chromium
from test_trace_export import EXAMPLE, FAILED, HOSTILE, exported, span

READY = "document.documentElement.dataset.ready"
ACTIVE = "document.querySelector('.row.active b').textContent"
READABLE = "h1, #facts, #failure:not([hidden]), .name b, .name em, .num, .track > span, aside dd, aside dt, #axis span"
RATIO = """(element) => {
  const light = (colour) => {
    const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map((c) => c / 255)
      .map((c) => (c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    const colour = getComputedStyle(e).backgroundColor;
    return e === document.documentElement || !/, 0\\)$|transparent/.test(colour) ? colour : ground(e.parentElement);
  };
  const [a, b] = [light(getComputedStyle(element).color), light(ground(element))].sort((x, y) => y - x);
  return (a + 0.05) / (b + 0.05);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as made:
        yield made


class Opened:
    """A page in the browser, with what it complained of and what it asked the network for."""

    def __init__(self, browser: Any, path: Path, width: int = 1200, scheme: str = "light") -> None:
        self.page = browser.new_page(viewport={"width": width, "height": 760}, color_scheme=scheme)
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_function(READY)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def run(self, script: str) -> Any:
        return self.page.evaluate(script)

    @property
    def active(self) -> str:
        return str(self.run(ACTIVE))

    def close(self) -> None:
        assert self.complaints == []
        assert [url for url in self.requests if not url.startswith(("file://", "data:"))] == []
        self.page.close()


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    def save(*roots: Any) -> Path:
        path = tmp_path / "trace.html"
        path.write_bytes(exported("html", *roots))
        return path

    return save


def test_everything_can_be_done_by_keyboard(browser: Any, saved: Any) -> None:
    opened = Opened(browser, saved(EXAMPLE))
    assert opened.run("document.activeElement.id") == "tree"
    opened.press("ArrowDown", "ArrowDown", "ArrowRight")
    assert opened.active == "left"
    opened.press("ArrowLeft", "ArrowLeft")
    assert opened.active == "fan"
    assert opened.run("document.querySelector('.row.active').getAttribute('aria-expanded')") == "false"
    assert opened.run("document.querySelectorAll('.row').length") == 4
    opened.press("ArrowRight", "End")
    assert opened.active == "late"
    opened.press("Home", "f")
    assert opened.active == "root"
    opened.press("/", *"righ", "Enter")
    assert opened.active == "right"
    assert opened.run("document.getElementById('found').textContent") == "1 of 1"
    opened.press("Escape", "Escape", "z")
    assert opened.run("document.getElementById('live').textContent").startswith("Showing ")
    assert opened.run("parseFloat(document.getElementById('window').style.width)") == pytest.approx(51.7, abs=0.1)
    opened.press("-", "-", "+", "[", "]", "0", "c")
    assert opened.run("document.getElementById('path').getAttribute('aria-pressed')") == "true"
    opened.press("x")
    assert opened.run("document.querySelectorAll('.row').length") == 4
    opened.press("x", "Enter")
    assert opened.run("document.activeElement.id") == "details"
    opened.press("Escape", "?")
    assert opened.run("document.getElementById('help').open") is True
    opened.press("Escape")
    assert opened.run("document.getElementById('help').open") is False
    opened.close()


def test_a_mouse_does_the_same(browser: Any, saved: Any) -> None:
    opened = Opened(browser, saved(EXAMPLE), width=800)
    opened.page.click("text=fan")
    assert opened.active == "fan"
    opened.page.click(".row.active .fold")
    assert opened.run("document.querySelectorAll('.row').length") == 4
    opened.page.dblclick(".row.active b")
    assert opened.run("parseFloat(document.getElementById('window').style.width)") == pytest.approx(55, abs=0.1)
    opened.page.click("#fit")
    box = opened.page.locator("#overview").bounding_box()
    opened.page.mouse.move(box["x"] + 100, box["y"] + 20)
    opened.page.mouse.down()
    opened.page.mouse.move(box["x"] + 300, box["y"] + 20)
    opened.page.mouse.up()
    assert opened.run("parseFloat(document.getElementById('window').style.width)") == pytest.approx(26.3, abs=1)
    opened.page.click("#details .jump")
    assert opened.active == "root"
    opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_and_rows_are_a_tree(browser: Any, saved: Any, scheme: str) -> None:
    failed = span("refused", 1.0, 2.0, status="failed", feedback="ValueError: no such customer")
    opened = Opened(browser, saved(span("top", 0.0, 200.0, failed), EXAMPLE), scheme=scheme)
    opened.press("f")
    for element in opened.page.query_selector_all(READABLE):
        assert element.evaluate(RATIO) >= 4.5, element.inner_html()
    rows = opened.page.query_selector_all("[role=tree] [role=treeitem]")
    found = [[row.get_attribute(f"aria-{name}") for name in ("level", "posinset", "setsize")] for row in rows]
    assert found == [["1", "1", "2"], ["2", "1", "1"], ["1", "2", "2"], ["2", "1", "3"], ["2", "2", "3"],
                     ["3", "1", "2"], ["3", "2", "2"], ["2", "3", "3"]]  # fmt: skip
    assert rows[1].get_attribute("aria-label") == (
        "refused, failed, 2.0 ms, on the critical path, ValueError: no such customer"
    )
    named = "document.getElementById(document.getElementById('tree').getAttribute('aria-activedescendant'))"
    assert opened.run(f"{named}.querySelector('b').textContent") == "refused"
    ring = opened.run(f"getComputedStyle({named}).outlineStyle + getComputedStyle({named}).outlineWidth")
    assert ring == "solid2px"
    assert opened.run("[...document.querySelectorAll('button')].every((b) => b.textContent || b.ariaLabel)") is True
    opened.close()


def test_a_failed_run_opens_at_its_error(browser: Any, saved: Any) -> None:
    opened = Opened(browser, saved(FAILED))
    assert opened.active == "charge"
    assert opened.page.is_visible("#failure")
    assert opened.run("document.getElementById('failure').textContent").startswith(
        "charge: ValueError: declined by //u:***@"
    )
    assert opened.run("document.querySelector('#details .error').textContent").startswith("ValueError: declined")
    assert opened.run("document.activeElement.id") == "tree"
    opened.press("Home")
    assert opened.active == "root"
    opened.page.click("#failure")
    assert opened.active == "charge"
    opened.close()
    whole = Opened(browser, saved(EXAMPLE))
    assert (whole.active, whole.page.is_visible("#failure")) == ("root", False)
    whole.close()


def test_stored_text_is_data(browser: Any, saved: Any) -> None:
    """Nothing in it becomes an element, and a script in it does not run."""
    bad = span(HOSTILE, 1.0, 2.0, status="failed", feedback=HOSTILE, **{HOSTILE: {HOSTILE: [HOSTILE]}})
    opened = Opened(browser, saved(span("<img src=x onerror=alert(1)>", 0.0, 9.0, bad)))
    opened.page.on("dialog", lambda _: opened.complaints.append("a script of the store ran"))
    opened.press("End", "Enter")
    assert opened.run("document.querySelectorAll('img, script:not(#trace):nth-of-type(3), b[onclick]').length") == 0
    assert opened.run("document.querySelectorAll('script').length") == 2
    assert opened.active.startswith("</script><script>alert(1)</script>")
    assert "漢字" in opened.run("document.querySelector('.attributes dt:nth-of-type(2)').textContent")
    opened.close()


def test_ten_thousand_spans(browser: Any, saved: Any) -> None:
    """Only the rows in sight are in the document, wherever one scrolls."""
    many = [
        span(f"branch {i}", i * 1.0, 1.0, *(span(f"leaf {i}.{j}", i + 0.1, 0.5, n=j) for j in range(99)))
        for i in range(100)
    ]
    opened = Opened(browser, saved(span("root", 0.0, 100.0, *many)))
    assert opened.run("document.getElementById('rows').clientHeight") == 10_001 * 26
    for key in ("End", "PageUp", "Home", "PageDown"):
        opened.press(key)
        assert 20 < opened.run("document.querySelectorAll('.row').length") < 60
    opened.press("/", *"leaf 77.5")
    assert opened.run("document.getElementById('found').textContent") == "1 of 11"
    assert opened.active == "leaf 77.5"
    opened.press("Escape", "Escape", "x")
    assert opened.run("document.querySelectorAll('.row').length") < 60
    assert opened.active == "branch 77"
    opened.close()
