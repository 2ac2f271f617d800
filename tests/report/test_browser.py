"""The page in a real browser: no console message, no request, nothing wider than a phone."""

from __future__ import annotations

import pytest
from browser import Browser, find_chromium

from rlhf_e2h.report.page import write_page

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
# elements that stick out of the page and do not scroll inside a box of their own
OVERFLOWING = """
[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll') && !e.closest('details:not([open])')
  && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1).map(e => e.tagName + '.' + e.className)
"""
# contrast of text against the background that lies behind it (WCAG 2, relative luminance)
CONTRAST = """
(() => {
  const rgb = c => c.match(/[\\d.]+/g).map(Number);
  const lum = c => { const [r, g, b] = rgb(c).slice(0, 3).map(v => { v /= 255;
    return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
  const back = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
    if (rgb(c).length < 4 || rgb(c)[3] > 0) return c; } return 'rgb(255, 255, 255)'; };
  let worst = [99, ''];
  const texts = 'p, td, th, small, li div, li span, a, h1, h2, h3, figcaption, .chip, dd, dt, text';
  for (const e of document.querySelectorAll(texts)) {
    if (!e.textContent.trim() || e.closest('details:not([open])')) continue;
    const style = getComputedStyle(e), ink = e.tagName === 'text' ? style.fill : style.color;
    const a = lum(ink), b = lum(back(e)), ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < worst[0]) worst = [ratio, e.tagName + '.' + e.className + ' ' + e.textContent.trim().slice(0, 30)];
  }
  return worst;
})()
"""


@pytest.fixture(scope="module")
def page(page_input, tmp_path_factory):
    return write_page(page_input, tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(CHROMIUM, tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_quiet_and_within_the_page(browser, page, width, dark):
    browser.open(page, width, dark)
    browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert browser.evaluate("document.title") == "quickstart: from easy problems to hard ones"
    assert browser.evaluate("document.querySelectorAll('svg').length") == 13
    assert browser.evaluate("document.documentElement.scrollWidth") == width
    assert browser.evaluate(OVERFLOWING) == []
    requests = [event["request"]["url"] for event in browser.named("Network.requestWillBeSent")]
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
    for kind in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
        assert browser.named(kind) == []


@pytest.mark.parametrize("dark", [False, True])
def test_text_can_be_read(browser, page, dark):
    browser.open(page, 1280, dark)
    ratio, where = browser.evaluate(CONTRAST)
    assert ratio >= 4.5, f"contrast {ratio:.2f} at {where}"


@pytest.mark.parametrize("width", [1440, 390])
def test_text_of_figures_is_large_enough(browser, page, width):
    """In px as drawn: the font size of the SVG times the scale at which the browser shows it."""
    browser.open(page, width)
    sizes = browser.evaluate(
        "[...document.querySelectorAll('svg text')].map(e => parseFloat(getComputedStyle(e).fontSize)"
        " * e.ownerSVGElement.getBoundingClientRect().width / e.ownerSVGElement.viewBox.baseVal.width)"
    )
    assert len(sizes) > 100 and min(sizes) > 10.9


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("policies", "hard, against"),
        ("decoding", "hard, against"),
        ("gap", "recovered"),
        ("firewall", "verdict"),
        ("cost", "tokens"),
    ],
)
def test_the_deciding_column_is_on_a_phone(browser, page, table, column):
    """The paired difference is what a reader looks for; it may not need a scroll to be found."""
    browser.open(page, 390)
    heading = f"[...document.querySelectorAll('#{table} th')].find(e => e.textContent.startsWith('{column}'))"
    assert browser.evaluate(f"{heading}.getBoundingClientRect().right") <= 390


def test_wide_tables_scroll_in_their_box_on_a_phone(browser, page):
    browser.open(page, 390)
    boxes = browser.evaluate(
        "[...document.querySelectorAll('section > .scroll')].map(e => [e.scrollWidth, e.clientWidth])"
    )
    assert len(boxes) >= 6 and any(inner > outer for inner, outer in boxes)
    assert all(outer <= 390 for _, outer in boxes)
