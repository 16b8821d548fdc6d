"""The rendered pages, measured: code fits its column, controls can be grasped.

On a desk at most one block of code in fifty scrolls sideways; on a phone none does.
Every slider has a track to move along, a label that fits and a value beside it, and
follows the pointer.
"""

import math

import pytest
from measures import TRACK, TRACKS, faults
from rendered import HTML, LIVE_MODEL, needs_the_book
from test_pages import MOVING, SHOWN, timed_out

WIDTHS = (1400, 390)
SHARE = 0.02  # of the blocks of code that may scroll on a desk
# Blocks of code and of output, unfolded, and the longest line of each that is cut.
BLOCKS = """() => {
  document.querySelectorAll("details").forEach((e) => { e.open = true; });
  const all = [...document.querySelectorAll(".bd-article div.highlight pre")];
  const blocks = all.filter((e) => e.getClientRects().length > 0);
  const lines = (e) => e.innerText.split("\\n").sort((a, b) => b.length - a.length);
  const cut = blocks.filter((e) => e.scrollWidth > e.clientWidth + 1);
  return { count: blocks.length, cut: cut.map((e) => lines(e)[0]) };
}"""
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
SLIDERS = ".noUi-handle, .live input[type=range]"

pytestmark = needs_the_book


def pages():
    """Every page of prose or of the package; not the theme's own."""
    found = (path.relative_to(HTML) for path in sorted(HTML.rglob("*.html")))
    own = {"_static", "_modules", "genindex.html", "search.html", "py-modindex.html"}
    return [path.as_posix() for path in found if path.parts[0] not in own]


@pytest.mark.parametrize("width", WIDTHS)
def test_code_fits_its_column(browser, site, width):
    count = 0
    cut = []
    page = browser.new_page(viewport={"width": width, "height": 900})
    for name in pages():
        page.goto(f"{site}/{name}", wait_until="load")
        found = page.evaluate(BLOCKS)
        count += found["count"]
        cut += [f"{name}: {line}" for line in found["cut"]]
    page.close()
    print(
        f"{width} pixels: {len(cut)} of {count} blocks of code are cut", *cut, sep="\n"
    )
    assert count > 500
    assert len(cut) <= (math.floor(SHARE * count) if width > 576 else 0)


def opened(browser, site, name, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(f"{site}/{name}.html", wait_until="networkidle")
    if page.locator(".gen-still").count():
        page.locator(LIVE_MODEL).wait_for(timeout=60_000)
    page.locator(SLIDERS).first.wait_for(timeout=20_000)
    return page


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", MOVING)
def test_every_slider_has_a_track_a_label_and_a_value(browser, site, name, width):
    page = opened(browser, site, name, width)
    tracks = page.evaluate(TRACKS)
    page.close()
    print(*tracks, sep="\n")
    assert tracks and not faults(tracks)


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


@pytest.mark.parametrize("name", MOVING)
def test_every_slider_follows_the_pointer(browser, site, name):
    """Pressed at its handle and drawn to where there is more room, left or right."""
    page = opened(browser, site, name, 1400)
    idle = []
    for k in range(page.locator(SLIDERS).count()):
        slider = page.locator(SLIDERS).nth(k)
        slider.scroll_into_view_if_needed()
        grip = slider.evaluate(GRIP)
        before = page.evaluate(SHOWN)
        middle = grip["left"] + grip["width"] / 2
        way = grip["width"] / 3 * (1 if grip["x"] <= middle else -1)
        page.mouse.move(grip["x"], grip["y"])
        page.mouse.down()
        page.mouse.move(grip["x"] + way, grip["y"], steps=4)
        page.mouse.up()
        try:
            page.wait_for_function(
                f"before => ({SHOWN})() !== before", arg=before, timeout=5_000
            )
        except timed_out():
            idle.append(slider.evaluate("e => e.outerHTML.slice(0, 200)"))
    page.close()
    assert not idle
