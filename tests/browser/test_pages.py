"""The rendered pages in a real browser: every slider moves its picture, nothing leaves
the machine, nothing sticks out.

Needs Chromium (or Chrome) and the built book: `make book` first. Skipped by name where
either is missing.
"""

import importlib

import pytest
from rendered import HTML, LIVE_MODEL, needs_the_book

PAGES = (
    "index",
    "tour",
    "01-flows-and-observables",
    "02-exact-lifts",
    "03-dmd",
    "04-edmd",
    "05-learning-the-lift",
    "06-clocks",
    "07-one-step-in-the-plane",
    "08-diffusion-as-a-flow",
    "09-architecture",
    "10-training",
    "11-what-one-step-buys",
    "12-theorems",
    "13-reading-the-spectrum",
    "14-editing",
    "15-generator-in-your-page",
    "16-kdm",
    "17-side-by-side",
    "18-limits",
    "notation",
    "claims",
    "api/koopman",
)
# each has something to move
MOVING = tuple(page for page in PAGES if page == "tour" or page[:2].isdigit())

# What a control may be: a stored widget's slider, or whatever a picture that computes
# in the page offers.
CONTROLS = (
    ".noUi-handle, .live input[type=range], .live select, .live button, .live .handle"
)
# What a reader sees of the pictures: frames of widgets that are shown, and the drawing
# of every live picture, without its controls (a handle that moves alone does not
# count).
SHOWN = """() => {
  const images = [...document.querySelectorAll("img.widget-image")];
  const frames = images.filter(i => i.offsetParent).map(i => i.src);
  const drawn = [...document.querySelectorAll(".live svg")].map(svg => {
    const copy = svg.cloneNode(true);
    copy.querySelectorAll(".handle").forEach(handle => handle.remove());
    return copy.outerHTML;
  });
  return frames.concat(drawn).join();
}"""

pytestmark = needs_the_book


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("page_name", PAGES)
def test_a_phone_shows_it_without_sideways_scroll(browser, site, page_name, scheme):
    page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=scheme)
    page.goto(f"{site}/{page_name}.html")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    broken = page.evaluate(
        "[...document.images].filter(i => i.complete && !i.naturalWidth).map(i => "
        "i.src)"
    )
    assert not broken
    page.close()


@pytest.mark.parametrize("page_name", PAGES)
def test_it_needs_no_other_machine(browser, site, page_name):
    if "work without a network" not in (HTML.parent / "offline.txt").read_text(
        encoding="utf-8"
    ):
        pytest.skip(
            "this book was built without npm: formulas and widgets come from a CDN"
        )
    page = browser.new_page()
    elsewhere = []
    page.on(
        "request",
        lambda r: (
            elsewhere.append(r.url)
            if not r.url.startswith((site, "data:", "blob:"))
            else None
        ),
    )
    page.goto(f"{site}/{page_name}.html", wait_until="networkidle")
    assert not elsewhere
    page.close()


def press(page, k):
    """Move control k by one key, as a reader without a mouse would; buttons are
    clicked.
    """
    control = page.locator(CONTROLS).nth(k)
    control.scroll_into_view_if_needed()
    if control.evaluate("e => e.tagName") == "BUTTON":
        control.click()
    elif control.evaluate("e => e.tagName") == "SELECT":
        values = control.evaluate("e => [...e.options].map(o => o.value)")
        control.select_option(next(v for v in values if v != control.input_value()))
    else:
        control.focus()
        page.keyboard.press("ArrowRight")


def idle_controls(page, wait=5_000):
    """The controls of a page that leave its pictures as they were, in words."""
    if page.locator(".gen-still").count():
        page.locator(LIVE_MODEL).wait_for(timeout=60_000)
    page.locator(CONTROLS).first.wait_for(timeout=20_000)
    idle = []
    count = page.locator(CONTROLS).count()
    for k in range(count):
        before = page.evaluate(SHOWN)
        assert before
        press(page, k)
        try:
            page.wait_for_function(
                f"before => ({SHOWN})() !== before", arg=before, timeout=wait
            )
        except timed_out():
            idle.append(
                page.locator(CONTROLS)
                .nth(k)
                .evaluate("e => (e.closest('label') ?? e).outerHTML.slice(0, 200)")
            )
    return idle


def timed_out():
    """Playwright's own exception, imported only where playwright is."""
    return importlib.import_module("playwright.sync_api").TimeoutError


@pytest.mark.parametrize("page_name", MOVING)
def test_every_control_moves_its_picture(browser, site, page_name):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(f"{site}/{page_name}.html", wait_until="networkidle")
    assert not idle_controls(page) and not errors
    page.close()


@pytest.mark.parametrize("page_name", ["01-flows-and-observables", "02-exact-lifts"])
def test_a_control_whose_callback_is_cut_is_noticed(browser, site, page_name):
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    cut = []

    def without_callbacks(route):
        body = route.fetch().text()
        cut.append(
            body.count("move(Number(input.value));")
            + body.count("if (tell) move(...point);")
        )
        body = body.replace("move(Number(input.value));", "").replace(
            "if (tell) move(...point);", ""
        )
        route.fulfill(body=body, content_type="text/html")

    page.route("**/*.html", without_callbacks)
    page.goto(f"{site}/{page_name}.html", wait_until="networkidle")
    assert cut[0] >= 2 and idle_controls(page, wait=700)
    page.close()
