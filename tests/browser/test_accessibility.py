"""What axe finds in the rendered pages: nothing serious, in light and in dark, on a
desk and on a phone.

axe-core comes from npm by the digest in package.json beside this file, and runs in
Chromium; the built book is looked at (`make book` first). Skipped by name where one of
them is missing.
"""

import importlib.util
import json
import pathlib
import shutil
import subprocess

import pytest
from rendered import HTML, LIVE_MODEL, ROOT, needs_the_book

PAGES = (
    "index",
    "13-reading-the-spectrum",
    "14-editing",
    "15-generator-in-your-page",
    "17-side-by-side",
    "map",
    "cheat-sheet",
    "self-check",
)

pytestmark = needs_the_book


@pytest.fixture(scope="module")
def axe():
    """The source of axe-core, fetched once into _build/npm."""
    if shutil.which("npm") is None:
        pytest.skip("axe-core comes from npm, and npm was not found")
    spec = importlib.util.spec_from_file_location(
        "hkd_pages", ROOT / "book" / "assets" / "ext" / "hkd_pages.py"
    )
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    wish = json.loads(
        pathlib.Path(__file__).with_name("package.json").read_text(encoding="utf-8")
    )
    folder = ROOT / "_build" / "npm" / "axe-core"
    try:
        pages.fetch(
            "axe-core",
            wish["dependencies"]["axe-core"],
            wish["integrity"]["axe-core"],
            folder,
            r"axe\.min\.js",
        )
    except (OSError, subprocess.SubprocessError) as error:
        pytest.skip(f"npm did not deliver axe-core: {error}")
    return (folder / "axe.min.js").read_text(encoding="utf-8")


def test_what_the_tests_fetch_is_pinned():
    wish = json.loads(
        pathlib.Path(__file__).with_name("package.json").read_text(encoding="utf-8")
    )
    assert set(wish["dependencies"]) == set(wish["integrity"])
    assert all(digest.startswith("sha512-") for digest in wish["integrity"].values())


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1400), ("dark", 1400), ("light", 390)]
)
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_nothing_serious(browser, site, axe, name, scheme, width):
    if not (HTML / f"{name}.html").is_file():
        pytest.skip(f"the rendered book has no {name}.html")
    page = browser.new_page(
        viewport={"width": width, "height": 900}, color_scheme=scheme
    )
    page.goto(f"{site}/{name}.html", wait_until="networkidle")
    if page.locator(".gen-still").count():  # the live model has its say, too
        page.locator(LIVE_MODEL).wait_for(timeout=60_000)
    page.evaluate(axe)
    found = page.evaluate("async () => (await axe.run(document)).violations")
    page.close()
    told = [
        f"{v['impact']}: {v['id']} ({v['help']}): {v['nodes'][0]['html'][:150]}"
        for v in found
    ]
    print(*told, sep="\n")
    assert not [line for line in told if line.startswith(("serious", "critical"))]
