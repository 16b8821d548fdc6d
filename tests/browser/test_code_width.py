"""Code fits the page: on a desk at most one block in fifty scrolls sideways, on a small
laptop one in thirty, on a phone none.
"""

import math

from rendered import HTML, needs_the_book

SHARE = {1400: 1 / 50, 1280: 1 / 30, 390: 0}  # by width in pixels
# Blocks of code and of output, unfolded, and the longest line of each that is cut.
BLOCKS = """() => {
  document.querySelectorAll("details").forEach((e) => { e.open = true; });
  const all = [...document.querySelectorAll(".bd-article div.highlight pre")];
  const blocks = all.filter((e) => e.getClientRects().length > 0);
  const lines = (e) => e.innerText.split("\\n").sort((a, b) => b.length - a.length);
  const cut = blocks.filter((e) => e.scrollWidth > e.clientWidth + 1);
  return { count: blocks.length, cut: cut.map((e) => lines(e)[0]) };
}"""
THEMES_OWN = {"_static", "_modules", "genindex.html", "search.html"}

pytestmark = needs_the_book


def text_alone(route):
    """Load what sets the width of code, and nothing else."""
    if route.request.resource_type in ("document", "stylesheet"):
        route.continue_()
    else:
        route.abort()


def pages():
    """Every page of prose or of the package."""
    found = (path.relative_to(HTML) for path in sorted(HTML.rglob("*.html")))
    return [path.as_posix() for path in found if path.parts[0] not in THEMES_OWN]


def test_code_fits_its_column(browser, site):
    page = browser.new_page()
    page.route("**/*", text_alone)
    found = {width: {"count": 0, "cut": []} for width in SHARE}
    for name in pages():
        page.goto(f"{site}/{name}", wait_until="domcontentloaded")
        for width, told in found.items():
            page.set_viewport_size({"width": width, "height": 900})
            blocks = page.evaluate(BLOCKS)
            told["count"] += blocks["count"]
            told["cut"] += [f"{name}: {line}" for line in blocks["cut"]]
    page.close()
    for width, told in found.items():
        cut = told["cut"]
        print(f"{width} pixels: {len(cut)} of {told['count']} blocks are cut", *cut)
    for width, share in SHARE.items():
        assert found[width]["count"] > 500
        assert len(found[width]["cut"]) <= math.floor(share * found[width]["count"])
