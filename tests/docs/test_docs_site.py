"""The site builds without a warning, its links lead somewhere, and it opens in a browser without a network."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from commands import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
HOW_TO = ("from_other_libraries", "own_data", "own_model", "own_reward", "rerank", "resume", "pack_and_audit",
          "multi_node", "dashboards", "ppo_diverges")  # fmt: skip


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("sphinx", reason="the documentation needs the extra [docs]")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(out / "cache")]
    command += ["docs", str(out / "html")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1000, check=False)
    assert not done.returncode, done.stderr
    return out / "html"


class Links(HTMLParser):
    """Targets and anchors of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids |= {found["id"]} if found.get("id") else set()
        self.targets += [found[key] for key in ("href", "src") if found.get(key)]


def test_links_lead_somewhere(site: Path):
    pages = {page: Links(page.read_text(encoding="utf-8")) for page in site.rglob("*.html")}
    assert len(pages) > 20
    broken = []
    for page, links in pages.items():
        for target in links.targets:
            parts = urlsplit(target)
            if parts.scheme or target.startswith("//"):
                continue
            file = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            anchors = pages[file].ids if file in pages else None
            if not file.exists() or (parts.fragment and anchors is not None and unquote(parts.fragment) not in anchors):
                broken.append(f"{page.relative_to(site)}: {target}")
    assert broken == []


def test_everything_is_there(site: Path):
    text = (site / "index.html").read_text(encoding="utf-8")
    for page in (
        "tutorial",
        "method",
        "reference/settings/index",
        "reference/python",
        *(f"howto/{name}" for name in HOW_TO),
    ):
        assert f'href="{page}.html"' in text, page
    settings = (site / "reference/settings/ppo.html").read_text(encoding="utf-8")
    assert "kl_coef" in settings and "nats a completion; given, the coefficient adapts" in settings
    python = (site / "reference/python.html").read_text(encoding="utf-8")
    assert 'id="reward_models.aggregate.aggregate"' in python and "rlhf_e2h.rl.ppo.train_ppo" in python
    assert (site / "recipes/llemma-7b-prm800k.html").is_file()


def test_pages_open_without_a_network(site: Path, tmp_path: Path):
    sys.path.insert(0, str(ROOT / "tests/report"))
    from browser import Browser, find_chromium

    chromium = find_chromium()
    if chromium is None:
        pytest.skip("chromium is not installed")
    browser = Browser(chromium, tmp_path / "profile")
    try:
        for name in ("index", "tutorial", "reference/settings/ppo", "howto/ppo_diverges"):
            for width in (1280, 390):
                browser.open(site / f"{name}.html", width)
                assert browser.evaluate("document.documentElement.scrollWidth") <= width, (
                    f"{name} is wider than {width}"
                )
                urls = [event["request"]["url"] for event in browser.named("Network.requestWillBeSent")]
                assert not [url for url in urls if not re.match(r"file:|data:", url)], name
                assert browser.named("Runtime.exceptionThrown") == []
                errors = [event for event in browser.named("Log.entryAdded") if event["entry"]["level"] == "error"]
                assert errors == [], f"{name}: {errors}"
    finally:
        browser.close()
