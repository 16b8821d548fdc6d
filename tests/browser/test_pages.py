"""The rendered pages in a real browser: every slider moves its picture, nothing leaves the machine, nothing sticks out.

Needs Chromium (or Chrome) and the built book: `make book` first. Skipped by name where either is missing.
"""

import functools
import http.server
import pathlib
import shutil
import threading

import pytest

HTML = pathlib.Path(__file__).resolve().parents[2] / "_build" / "html"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
PAGES = ("index", "tour", "02-exact-lifts", "notation", "claims", "api/koopman")
SLIDERS = {"tour": 1, "02-exact-lifts": 2}

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the PATH"),
    pytest.mark.skipif(not (HTML / "index.html").is_file(), reason="no rendered book in _build/html: run `make book`"),
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site():
    """The address of the rendered book, served from this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=HTML))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page_name", PAGES)
def test_a_phone_shows_it_without_sideways_scroll(browser, site, page_name, scheme):
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.goto(f"{site}/{page_name}.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    broken = page.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => i.src)")
    assert not broken
    page.close()


@pytest.mark.parametrize("page_name", PAGES)
def test_it_needs_no_other_machine(browser, site, page_name):
    if "work without a network" not in (HTML.parent / "offline.txt").read_text(encoding="utf-8"):
        pytest.skip("this book was built without npm: formulas and widgets come from a CDN")
    page, elsewhere = browser.new_page(), []
    page.on("request", lambda r: elsewhere.append(r.url) if not r.url.startswith((site, "data:", "blob:")) else None)
    page.goto(f"{site}/{page_name}.html", wait_until="networkidle")
    assert not elsewhere
    page.close()


@pytest.mark.parametrize(("page_name", "count"), SLIDERS.items())
def test_every_slider_moves_its_picture(browser, site, page_name, count):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(f"{site}/{page_name}.html", wait_until="networkidle")
    handles = page.locator(".noUi-handle")
    handles.first.wait_for(timeout=20_000)
    assert handles.count() == count
    shown = "[...document.querySelectorAll('img.widget-image')].filter(i => i.offsetParent).map(i => i.src).join()"
    for k in range(count):
        before = page.evaluate(shown)
        assert before
        handles.nth(k).focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function(f"({shown}) !== {before!r}", timeout=5_000)
    page.close()
