"""The rendered pages in a real browser: every control moves its picture, by key and by
pointer, nothing leaves the machine, nothing sticks out, every slider can be grasped.

Needs Chromium (or Chrome) and the built book: `make book` first. Skipped by name where
either is missing. A page is opened once for all that is asked of it.
"""

import contextlib
import importlib
from typing import NamedTuple

import pytest
from measures import TRACK, TRACKS, faults
from rendered import HTML, LIVE_MODEL, needs_the_book

MOVING = (
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
)
ON_RAMPS = ("map", "cheat-sheet", "self-check")
PAGES = (*MOVING, *ON_RAMPS, "gallery", "index", "notation", "claims", "api/koopman")
DESK = {"width": 1400, "height": 900}
PHONE = {"width": 390, "height": 844}

# What a control may be: a stored widget's slider, or whatever a picture that computes
# in the page offers.
CONTROLS = (
    ".noUi-handle, .live input[type=range], .live select, .live button, .live .handle"
)
SLIDERS = ".noUi-handle, .live input[type=range]"
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
# The pictures once they have stood still for a moment: a page may still be drawing what
# an earlier move asked for, which is not what the next one does.
SETTLED = f"""async () => {{
  const shown = {SHOWN};
  let before = shown();
  for (let round = 0; round < 50; round += 1) {{
    await new Promise(resolve => setTimeout(resolve, 100));
    const now = shown();
    if (now && now === before) break;
    before = now;
  }}
  return before;
}}"""
# Where a pointer takes hold of a slider, and how long its track is.
GRIP = """(e) => {
  const box = e.getBoundingClientRect();
  if (e.tagName !== "INPUT") {
    const track = e.closest(".noUi-target").getBoundingClientRect();
    const x = box.x + box.width / 2;
    return { x, y: box.y + box.height / 2, left: track.x, width: track.width };
  }
  const thumb = 16;
  const share = (e.value - e.min) / (e.max - e.min);
  const x = box.x + thumb / 2 + share * (box.width - thumb);
  return { x, y: box.y + box.height / 2, left: box.x, width: box.width };
}"""
BROKEN = """[...document.images].filter(i => i.complete && !i.naturalWidth)
  .map(i => i.src)"""

pytestmark = needs_the_book


class Visit(NamedTuple):
    """An open page on a desk, what it asked of other machines, and its errors."""

    name: str
    page: object
    elsewhere: list[str]
    errors: list[str]


def show(page, site, name):
    """Open a page and wait until what moves on it is there."""
    page.goto(f"{site}/{name}.html", wait_until="networkidle")
    if page.locator(".gen-still").count():
        page.locator(LIVE_MODEL).wait_for(timeout=60_000)
    if name in MOVING:
        page.locator(CONTROLS).first.wait_for(timeout=20_000)


@pytest.fixture(scope="module", params=PAGES)
def visit(request, browser, site):
    """One page after another, each opened once."""
    name = request.param
    page = browser.new_page(viewport=DESK, color_scheme="light")
    elsewhere = []
    errors = []
    here = (site, "data:", "blob:")
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request", lambda r: None if r.url.startswith(here) else elsewhere.append(r.url)
    )
    show(page, site, name)
    yield Visit(name, page, elsewhere, errors)
    page.close()


@contextlib.contextmanager
def on_a_phone(page):
    """The page on a phone, in light and then in dark: an iterator of both."""

    def schemes():
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            yield scheme

    page.set_viewport_size(PHONE)
    yield schemes()
    page.emulate_media(color_scheme="light")
    page.set_viewport_size(DESK)


def timed_out():
    """Playwright's own exception, imported only where playwright is."""
    return importlib.import_module("playwright.sync_api").TimeoutError


def test_a_phone_shows_it_without_sideways_scroll(visit):
    with on_a_phone(visit.page) as schemes:
        for scheme in schemes:
            wide = visit.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= PHONE["width"], scheme
    assert not visit.page.evaluate(BROKEN)


def test_it_needs_no_other_machine(visit):
    said = (HTML.parent / "offline.txt").read_text(encoding="utf-8")
    if "work without a network" not in said:
        pytest.skip("built without npm: formulas and widgets come from a CDN")
    assert not visit.elsewhere


def test_every_slider_has_a_track_a_label_and_a_value(visit):
    tracks = visit.page.evaluate(TRACKS)
    with on_a_phone(visit.page):
        narrow = visit.page.evaluate(TRACKS)
    print(*tracks, *narrow, sep="\n")
    assert not faults(tracks) and not faults(narrow)
    assert len(narrow) == len(tracks) == visit.page.locator(SLIDERS).count()


def test_a_narrow_slider_is_noticed():
    found = [
        {"name": "above: evaluations", "track": 0, "cut": 90, "value": "1"},
        {"name": "seed", "track": TRACK, "cut": 0, "value": ""},
        {"name": "time", "track": TRACK, "cut": 1, "value": "0.5"},
    ]
    assert faults(found) == [
        "above: evaluations: a track of 0 pixels",
        "above: evaluations: its label lacks 90 pixels",
        "seed: no value is shown",
    ]


def press(page, k):
    """Move control k by one key, as a reader without a mouse would; buttons are
    clicked. What puts it back, for a list: other controls may depend on its choice.
    """
    control = page.locator(CONTROLS).nth(k)
    control.scroll_into_view_if_needed()
    if control.evaluate("e => e.tagName") == "BUTTON":
        control.click()
    elif control.evaluate("e => e.tagName") == "SELECT":
        values = control.evaluate("e => [...e.options].map(o => o.value)")
        before = control.input_value()
        control.select_option(next(v for v in values if v != before))
        return lambda: control.select_option(before)
    else:
        control.focus()
        page.keyboard.press("ArrowRight")


def drag(page, k):
    """Draw slider k nearly to that end of its track which is farther away. What draws
    it back: where one slider stands, another may have nothing to change.
    """
    slider = page.locator(SLIDERS).nth(k)
    slider.scroll_into_view_if_needed()
    start = slider.evaluate(GRIP)
    middle = start["left"] + start["width"] / 2

    def draw_to(x):
        grip = slider.evaluate(GRIP)
        page.mouse.move(grip["x"], grip["y"])
        page.mouse.down()
        page.mouse.move(x, grip["y"], steps=4)
        page.mouse.up()

    share = 0.95 if start["x"] <= middle else 0.05
    draw_to(start["left"] + share * start["width"])
    return lambda: draw_to(start["x"])


def idle(page, controls, move, wait=5_000, which=None):
    """The numbers of those controls that leave the page's pictures as they were."""
    found = []
    for k in range(page.locator(controls).count()) if which is None else which:
        before = page.evaluate(SETTLED)
        assert before
        undo = move(page, k)
        try:
            page.wait_for_function(
                f"before => ({SHOWN})() !== before", arg=before, timeout=wait
            )
        except timed_out():
            found.append(k)
        if undo:
            undo()
    return found


def in_words(page, controls, which):
    told = "e => (e.closest('label') ?? e).outerHTML.slice(0, 200)"
    return [page.locator(controls).nth(k).evaluate(told) for k in which]


def test_every_control_moves_its_picture(visit):
    count = visit.page.locator(CONTROLS).count()
    assert (count > 0) == (visit.name in MOVING)
    left = idle(visit.page, CONTROLS, press)
    assert not in_words(visit.page, CONTROLS, left) and not visit.errors


def test_every_slider_follows_the_pointer(visit):
    """With the others where they stand; or with the one before it drawn to its end, on
    which it may depend ("encoded at level" wants a share to encode).
    """
    page = visit.page
    left = []
    for k in idle(page, SLIDERS, drag):
        undo = drag(page, k - 1)
        left += idle(page, SLIDERS, drag, which=[k])
        undo()
    assert not in_words(page, SLIDERS, left) and not visit.errors


@pytest.mark.parametrize("name", ["01-flows-and-observables", "02-exact-lifts"])
def test_a_control_whose_callback_is_cut_is_noticed(browser, site, name):
    page = browser.new_page(viewport=DESK)
    cut = []

    def without_callbacks(route):
        body = route.fetch().text()
        for callback in (
            "move(Number(input.value));",
            "if (tell) move(...point);",
        ):
            cut.append(body.count(callback))
            body = body.replace(callback, "")
        route.fulfill(body=body, content_type="text/html")

    page.route("**/*.html", without_callbacks)
    show(page, site, name)
    assert sum(cut) >= 2 and idle(page, CONTROLS, press, wait=700)
    assert name == "02-exact-lifts" or idle(page, SLIDERS, drag, wait=700)
    page.close()
