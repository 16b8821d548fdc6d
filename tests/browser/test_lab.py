"""JupyterLab, end to end: open a chapter, run all of it, move a slider of its live
figure, and see the figure change. Then the masking widget: each control changes its
picture, and one whose callback is cut is noticed.

Needs Chromium (or Chrome) and JupyterLab. Everything happens in a copy of the book,
with settings of its own, on a free port of this machine. Skipped by name where
something is missing.
"""

import contextlib
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from rendered import ROOT, in_a_browser

CHAPTER = "05-learning-the-lift"
# ms for all cells of the chapter: half a minute, on a machine with nothing else to do
RUNNING = 400_000
# Every cell stays in the page (JupyterLab drops those out of sight), and nothing asks
# for news or for a version.
SETTINGS = {
    "@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"},
    "@jupyterlab/apputils-extension:notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
    },
}

# The masking widget by itself: two lines, and the same with what follows its controls
# cut away.
MASKING = """import hkd_mini
from hkd_mini.app import widgets
{cut}
widgets.masking(hkd_mini.load("hkd-cifar10-tiny"), n=4)"""
CUT = "widgets.redraw_on_change = lambda draw, box: draw()"

SAID = (
    "[data-mime-type='application/vnd.jupyter.stderr'], "
    "[data-mime-type='application/vnd.jupyter.error']"
)

pytestmark = [*in_a_browser, pytest.mark.slow]


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def code_cell(notebook):
    """A code cell of a notebook without its tags."""
    return {
        **next(cell for cell in notebook["cells"] if cell["cell_type"] == "code"),
        "metadata": {},
    }


@pytest.fixture
def lab(tmp_path):
    """The address of a JupyterLab on a copy of the book, with its token."""
    pytest.importorskip("jupyterlab")
    pytest.importorskip("ipywidgets")
    book = tmp_path / "book"
    shutil.copytree(ROOT / "book" / "assets", book / "assets")
    notebook = json.loads(
        (ROOT / "book" / f"{CHAPTER}.ipynb").read_text(encoding="utf-8")
    )
    # nothing stored: all that is seen below was computed here
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)
    notebook["metadata"].pop("widgets", None)
    (book / f"{CHAPTER}.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    for name, cut in (("masking", ""), ("masking-cut", CUT)):
        cell = {**code_cell(notebook), "source": MASKING.format(cut=cut)}
        (book / f"{name}.ipynb").write_text(
            json.dumps({**notebook, "cells": [cell]}), encoding="utf-8"
        )

    settings = tmp_path / "config" / "labconfig"
    settings.mkdir(parents=True)
    (settings / "default_setting_overrides.json").write_text(
        json.dumps(SETTINGS), encoding="utf-8"
    )
    own = {
        name: str(tmp_path / name.lower())
        for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    }
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    env = {
        **os.environ,
        **own,
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"),
        "PYTHONPATH": paths,
    }
    env |= {
        "JUPYTERLAB_SETTINGS_DIR": str(tmp_path / "user"),
        "JUPYTERLAB_WORKSPACES_DIR": str(tmp_path / "spaces"),
    }
    port = free_port()
    token = secrets.token_hex(16)
    log = tmp_path / "lab.log"
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--ip=127.0.0.1",
        f"--port={port}",
    ]
    command += [
        "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={token}",
        f"--ServerApp.root_dir={book}",
    ]
    with open(log, "wb") as out:
        server = subprocess.Popen(
            command, cwd=book, env=env, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/api/status?token={token}", server, log)
        yield f"http://127.0.0.1:{port}", token
    finally:
        stop(server)


def wait_for(url, server, log, seconds=90):
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.3)
    pytest.fail(
        "JupyterLab did not "
        f"start:\n{log.read_text(encoding='utf-8', errors='replace')[-2000:]}"
    )


def stop(server):
    """Ask the server to leave, which ends its kernels; if it does not, end it and what
    it started.
    """
    server.send_signal(signal.SIGTERM)
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        # its own session: nothing but the server and its kernels
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(10)


@pytest.fixture
def page(browser):
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    yield page
    page.close()


def run_all(page):
    """Run > Run All Cells, once the status bar says that the kernel is connected: what
    it is given earlier is lost.
    """
    page.get_by_text("| Idle").first.wait_for(timeout=120_000)
    page.locator(".lm-MenuBar-itemLabel", has_text=re.compile("^Run$")).click()
    page.locator(".lm-Menu-itemLabel", has_text=re.compile("^Run All Cells$")).click()
    page.locator(
        ".jp-InputPrompt", has_text=re.compile(r"\[(\*|\d+)\]")
    ).first.wait_for(timeout=60_000)


def opened_and_run(page, lab, name):
    """Open a notebook and run it, to its end (a busy kernel would answer no slider) or
    to its first error.
    """
    address, token = lab
    page.goto(
        f"{address}/lab/tree/{name}.ipynb?reset&token={token}",
        wait_until="load",
        timeout=120_000,
    )
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    cells.first.wait_for(timeout=120_000)
    assert not page.locator(".jp-OutputArea-output").count(), (
        "the copy has no stored output"
    )
    run_all(page)
    state = f"""() => {{
      const cells = [...document.querySelectorAll(".jp-Notebook .jp-CodeCell")];
      const prompt = c => c.querySelector(".jp-InputPrompt").textContent.trim();
      const prompts = cells.map(prompt);
      const wrong = [...document.querySelectorAll("{SAID}")].map(e => e.textContent);
      const ended = wrong.length > 0 || prompts.every(p => /\\d/.test(p));
      return {{ prompts, wrong, ended }};
    }}"""
    try:
        page.wait_for_function(f"() => ({state})().ended", timeout=RUNNING)
    finally:
        seen = page.evaluate(state)
        print(seen)  # shown by pytest where this fails
    assert not seen["wrong"]


def test_the_live_twin_moves_in_jupyterlab(lab, page):
    opened_and_run(page, lab, CHAPTER)
    sliders = page.locator(".jp-OutputArea .noUi-handle")
    picture = page.locator(".jp-OutputArea img.widget-image").last
    sliders.first.wait_for(state="attached", timeout=30_000)
    picture.wait_for(state="attached", timeout=30_000)
    for k in range(sliders.count()):
        before = picture.get_attribute("src")
        slider = sliders.nth(k)
        slider.scroll_into_view_if_needed()
        slider.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function(
            "([image, before]) => image.src !== before",
            arg=[picture.element_handle(), before],
            timeout=30_000,
        )
    assert sliders.count() == 3

    # and the picture that computes in the page does so here as well
    curve = page.locator(".live svg path[stroke='#D1521B']").first
    before = curve.get_attribute("d")
    page.locator(".live .handle").first.focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_function(
        "([c, before]) => c.getAttribute('d') !== before",
        arg=[curve.element_handle(), before],
    )


def move(page, control):
    """Move one control of a widget as a reader would."""
    control.scroll_into_view_if_needed()
    kind = control.evaluate(
        "e => e.className.includes('noUi-handle') ? 'handle' : e.tagName + (e.type ?? "
        "'')"
    )
    if kind == "handle":
        now, most = (
            float(control.get_attribute(name))
            for name in ("aria-valuenow", "aria-valuemax")
        )
        control.focus()
        page.keyboard.press("ArrowRight" if now < most else "ArrowLeft")
    elif kind.startswith("SELECT"):
        chosen = control.evaluate("e => e.selectedIndex")
        control.select_option(index=1 if chosen == 0 else 0)
    elif kind == "INPUTcheckbox":
        control.click()
    else:  # a row of buttons: one that is not chosen
        control.locator("button:not(.mod-active)").first.click()


def every_control_moves_the_picture(page, wait):
    """Raises AssertionError with the controls that leave the picture as it was; returns
    how many there are.
    """
    timed_out = pytest.importorskip("playwright.sync_api").TimeoutError
    kinds = (".noUi-handle", "select", "input[type=checkbox]", ".widget-toggle-buttons")
    controls = page.locator(
        ", ".join(f".jp-OutputArea .jupyter-widgets {kind}" for kind in kinds)
    )
    picture = page.locator(".jp-OutputArea img.widget-image")
    picture.wait_for(state="attached", timeout=30_000)
    page.locator(".jp-OutputArea .noUi-handle").first.wait_for(
        state="attached", timeout=30_000
    )
    idle = []
    for k in range(controls.count()):
        control = controls.nth(k)
        for _ in range(2):  # there and, for what is switched off, back again
            before = picture.get_attribute("src")
            move(page, control)
            try:
                changed = "([image, before]) => image.src !== before"
                page.wait_for_function(
                    changed, arg=[picture.element_handle(), before], timeout=wait
                )
            except timed_out:
                idle.append(control.evaluate("e => e.outerHTML.slice(0, 120)"))
                break
    assert not idle, f"{len(idle)} idle controls: {idle}"
    return controls.count()


def test_every_control_of_the_masking_widget_changes_its_picture(lab, page):
    opened_and_run(page, lab, "masking")
    assert every_control_moves_the_picture(page, wait=20_000) == 11
    opened_and_run(page, lab, "masking-cut")
    with pytest.raises(AssertionError, match="11 idle controls"):
        every_control_moves_the_picture(page, wait=700)
