"""The map can be read and used on a phone, the cheat sheet is one page of paper, and
answers are folded until somebody asks.
"""

import re

import pytest
from rendered import HTML, needs_the_book

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1400, "height": 900}
SMALLEST = 10  # pixels of a letter of the map, as drawn
# Words of the map: how large a pixel of the picture is drawn, times the size of type.
TYPE = """() => [...document.querySelectorAll(".book-map text")].map((e) => {
  const svg = e.ownerSVGElement;
  const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
  return scale * parseFloat(getComputedStyle(e).fontSize);
})"""
# Words of the map that stick out of their box.
OUT = """() => [...document.querySelectorAll(".map-box")].filter((a) => {
  const box = a.querySelector("rect").getBoundingClientRect();
  return [...a.querySelectorAll("text")].some((e) => {
    const word = e.getBoundingClientRect();
    return word.left < box.left + 4 || word.right > box.right - 2;
  });
}).map((a) => a.getAttribute("aria-label"))"""
LIT = """() => [...document.querySelectorAll(".map-box")]
  .filter((e) => getComputedStyle(e).opacity === "1")
  .map((e) => parseInt(e.getAttribute("href")))"""

pytestmark = needs_the_book


@pytest.fixture
def page(browser):
    found = browser.new_page(viewport=DESK)
    yield found
    found.close()


@pytest.mark.parametrize("screen", [PHONE, DESK], ids=["phone", "desk"])
def test_the_map_can_be_read(page, site, screen):
    page.set_viewport_size(screen)
    page.goto(f"{site}/map.html", wait_until="networkidle")
    assert min(page.evaluate(TYPE)) >= SMALLEST
    assert not page.evaluate(OUT)


def test_every_box_of_the_map_leads_to_its_chapter(page, site):
    page.goto(f"{site}/map.html", wait_until="networkidle")
    boxes = page.locator(".map-box")
    found = boxes.evaluate_all("all => all.map(e => e.getAttribute('href'))")
    assert len(found) == len(list(HTML.glob("[0-9][0-9]-*.html")))
    assert all((HTML / name).is_file() for name in found)
    boxes.nth(2).focus()
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/{found[2]}")


def test_the_buttons_of_the_map_show_a_path(page, site):
    """By key alone."""
    page.goto(f"{site}/map.html", wait_until="networkidle")
    everything = page.evaluate(LIT)
    page.locator(".map input").first.focus()
    for name in ("theory", "generative", "package"):
        page.keyboard.press("ArrowRight")
        assert page.locator(f"#map-{name}").is_checked()
        lit = page.evaluate(LIT)
        assert 4 <= len(lit) < len(everything)
        table = page.locator(f"#{name}-path, section:has(> #{name}-path)").first
        told = table.locator("td:first-child a").evaluate_all(
            "all => all.map(e => parseInt(e.getAttribute('href')))"
        )
        assert set(lit) <= set(told)


@pytest.mark.parametrize("paper", ["A4", "Letter"])
def test_the_cheat_sheet_is_one_page(page, site, paper):
    page.goto(f"{site}/cheat-sheet.html", wait_until="networkidle")
    page.wait_for_function("document.querySelectorAll('mjx-container').length > 40")
    printed = page.pdf(format=paper, prefer_css_page_size=False)
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) == 1


def test_answers_are_folded(page, site):
    page.goto(f"{site}/self-check.html", wait_until="networkidle")
    answers = page.locator(".bd-article details")
    assert answers.count() == 50
    assert not answers.evaluate_all("all => all.some(e => e.open)")
    first = answers.first
    first.locator("summary").click()
    assert first.locator("p").first.is_visible()
