"""What the tests of the rendered pages share: where they are, and the browser to look
at them with.
"""

import pathlib
import shutil

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))),
    None,
)
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
]
LIVE_MODEL = ".gen:not([hidden])"  # there once both models of chapter 15 have drawn

in_a_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="no chromium, chromium-browser or google-chrome on the PATH",
    ),
]
needs_the_book = [
    *in_a_browser,
    pytest.mark.skipif(
        not (HTML / "index.html").is_file(),
        reason="no rendered book in _build/html: run `make book`",
    ),
]
