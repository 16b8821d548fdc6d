"""No formula, table or sentence of any page is wider than a phone, folded parts opened:
none is cut, and none has to be scrolled sideways.
"""

import yaml
from rendered import HTML, ROOT, needs_the_book
from test_code_width import pages

PHONE = {"width": 390, "height": 844}
SMALLEST = 10  # pixels of a formula's type
OPEN = """() => {
  document.querySelectorAll("details").forEach((e) => { e.open = true; });
  for (const e of document.querySelectorAll(".toggle-hidden")) {
    e.classList.remove("toggle-hidden");
  }
}"""
DRAWN = """async () => {
  await window.MathJax?.startup?.promise;
  return !document.querySelector(".bd-article .math:not(:has(mjx-container))");
}"""
# What ends to the right of the screen, in words, and the smallest type of a formula.
WIDE = """() => {
  const width = document.documentElement.clientWidth;
  const article = document.querySelector(".bd-article");
  const shown = (e) => e.getClientRects().length > 0;
  const told = [];
  const look = (what, e, right) => {
    const text = e.textContent.trim().replace(/\\s+/g, " ").slice(0, 60);
    if (right > width + 1) told.push(`${what} to ${Math.round(right)}: ${text}`);
  };
  const formulas = [...article.querySelectorAll("mjx-container")].filter(shown);
  for (const e of formulas) {
    look("formula", e, e.querySelector("mjx-math").getBoundingClientRect().right);
  }
  const tables = [...article.querySelectorAll("table")].filter(shown);
  for (const e of tables) {
    const box = e.getBoundingClientRect();
    look("table", e, Math.max(box.right, box.left + e.scrollWidth));
  }
  const apart = "table, pre, mjx-container, svg, script, style, .visually-hidden";
  const walker = document.createTreeWalker(article, NodeFilter.SHOW_TEXT);
  const range = document.createRange();
  let texts = 0;
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const of = node.parentElement;
    if (!node.data.trim() || of.closest(apart) || !shown(of)) continue;
    texts += 1;
    range.selectNodeContents(node);
    const rights = [...range.getClientRects()].map((box) => box.right);
    look("words", node, Math.max(...rights));
  }
  const type = formulas.map((e) => parseFloat(getComputedStyle(e).fontSize));
  const counts = [formulas.length, tables.length, texts];
  return { told, counts, type: Math.min(99, ...type) };
}"""
FITTED = """() => new Promise((done) => {
  requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 100)));
})"""

pytestmark = needs_the_book


def listed(part):
    """The names of all pages in a part of the table of contents, and below it."""
    if isinstance(part, list):
        return {name for each in part for name in listed(each)}
    if not isinstance(part, dict):
        return set()
    own = {part[key] for key in ("root", "file") if key in part}
    return own | {name for value in part.values() for name in listed(value)}


def without_pictures(route):
    if route.request.resource_type in ("image", "media"):
        route.abort()
    else:
        route.continue_()


def measured(page, address):
    """What WIDE finds on a page, everything opened and drawn."""
    page.goto(address, wait_until="load")
    page.wait_for_function(DRAWN)
    page.evaluate(OPEN)
    page.evaluate(FITTED)
    return page.evaluate(WIDE)


def test_nothing_is_wider_than_a_phone(browser, site):
    contents = yaml.safe_load((ROOT / "book" / "_toc.yml").read_text("utf-8"))
    expected = listed(contents)
    names = pages()
    assert len(expected) > 30
    assert expected <= {name.removesuffix(".html") for name in names}
    page = browser.new_page(viewport=PHONE)
    page.set_default_timeout(300_000)  # a busy machine is no fault of the page
    page.route("**/*", without_pictures)
    told = []
    total = [0, 0, 0]
    for name in names:
        found = measured(page, f"{site}/{name}")
        print(name, found["counts"], *found["told"], sep="\n", flush=True)
        told += [f"{name}: {each}" for each in found["told"]]
        if found["type"] < SMALLEST:
            told.append(f"{name}: a formula in type of {found['type']:.1f} pixels")
        total = [a + b for a, b in zip(total, found["counts"], strict=True)]
    page.close()
    assert min(total) > 40 and not told


def test_what_is_too_wide_is_noticed(browser, site):
    """Without the script that fits them, formulas and tables stick out."""
    page = browser.new_page(viewport=PHONE)
    page.set_default_timeout(300_000)
    page.route("**/fit.js*", lambda route: route.abort())
    name = next(HTML.glob("13-*.html")).name
    told = measured(page, f"{site}/{name}")["told"]
    page.close()
    assert any(each.startswith("formula") for each in told)
    assert any(each.startswith("table") for each in told)
