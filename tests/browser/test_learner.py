"""The page that learns, chapter 7: its gradients and its Adam are torch's, its batches
ask what the chapter says, it learns something, and its buttons do what they say.

Needs Chromium (or Chrome), and no rendered book: the modules come from assets/live, the
picture and its data from the stored notebook.
"""

import json
import re

import numpy as np
import pytest
import torch
from rendered import ROOT, in_a_browser

LIVE = ROOT / "book" / "assets" / "live"
NOTEBOOK = ROOT / "book" / "07-one-step-in-the-plane.ipynb"
PICTURE = "live-learn"
STATE = 4
WIDTH = 6
ROWS = 10

pytestmark = in_a_browser


@pytest.fixture(scope="module")
def modules(browser):
    """A page that can import the modules of assets/live."""
    page = browser.new_page()

    def serve(route):
        name = route.request.url.rsplit("/", 1)[1]
        if name.endswith(".mjs"):
            body = (LIVE / name).read_text(encoding="utf-8")
            route.fulfill(body=body, content_type="text/javascript")
        else:
            route.fulfill(body="<!doctype html><title>empty</title>")

    page.route("http://book.test/**", serve)
    page.goto("http://book.test/")
    yield page
    page.close()


def in_page(page, program, **data):
    """What `program` returns; it sees the module as L and the data as `data`."""
    return page.evaluate(
        "async (data) => { const L = await import('/learner.mjs');" + program + "}",
        data,
    )


@pytest.fixture(scope="module")
def stored():
    """The live picture in the notebook's output: its HTML, and its data."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    outputs = [out for cell in cells for out in cell.get("outputs", [])]
    found = ["".join(out.get("data", {}).get("text/html", "")) for out in outputs]
    (html,) = [text for text in found if f'id="{PICTURE}"' in text]
    packed = re.search(r'id="data-learn">(.*?)</script>', html, flags=re.DOTALL)
    return html, json.loads(packed.group(1))


def networks(values):
    """The page's parameters as torch's: encoder, decoder, A."""
    tensors = [torch.tensor(v, dtype=torch.float64) for v in values]
    widths = [[3, WIDTH, WIDTH, STATE], [STATE, WIDTH, WIDTH, 2]]
    halves = []
    for sizes in widths:
        layers = []
        for n, m in zip(sizes[:-1], sizes[1:]):
            layer = torch.nn.Linear(n, m).double()
            with torch.no_grad():
                layer.weight.copy_(tensors.pop(0).view(m, n))
                layer.bias.copy_(tensors.pop(0))
            layers += [layer, torch.nn.SiLU()]
        halves.append(torch.nn.Sequential(*layers[:-1]))
    (A,) = tensors
    return *halves, A.requires_grad_()


def loss_of(encoder, decoder, A, x, dt, wish):
    """The mean over rows of |D(e^{A dt} E(x)) - wish|^2, with complex numbers."""
    p, q = encoder(x).chunk(2, dim=1)
    alpha, beta = A.chunk(2)
    w = torch.complex(p, q) * torch.exp(torch.complex(alpha, -beta) * dt[:, None])
    found = decoder(torch.cat([w.real, w.imag], dim=1))
    return (found - wish).square().sum(dim=1).mean()


def test_every_step_is_that_of_torch(modules):
    rng = np.random.default_rng(0)
    batches = [
        {
            "x": rng.normal(size=(ROWS, 3)).ravel().tolist(),
            "dt": rng.uniform(-1, 1, ROWS).tolist(),
            "wish": rng.normal(size=(ROWS, 2)).ravel().tolist(),
        }
        for _ in range(8)
    ]
    program = """const model = L.hkd(data.network), losses = [];
    model.A.value.forEach((_, i, A) => { A[i] = 0.3 * (i - 1.5); });
    const values = () => L.parameters(model).map((p) => [...p.value]);
    const begun = values();
    data.batches.forEach((batch, k) => {
      losses.push(L.learn(model, batch));
      L.adam(model, 0.01, k + 1);
    });
    return { begun, losses, done: values() };"""
    network = {"width": WIDTH, "state": STATE, "wide": 3, "rateA": 10, "seed": 5}
    page = in_page(modules, program, network=network, batches=batches)

    encoder, decoder, A = networks(page["begun"])
    weights = [*encoder.parameters(), *decoder.parameters()]
    groups = [{"params": weights}, {"params": [A], "lr": 0.1}]
    optimiser = torch.optim.Adam(groups, lr=0.01, betas=(0.9, 0.99))
    for batch, found in zip(batches, page["losses"]):
        x, dt, wish = (
            torch.tensor(batch[name], dtype=torch.float64).view(shape)
            for name, shape in (("x", (ROWS, 3)), ("dt", ROWS), ("wish", (ROWS, 2)))
        )
        loss = loss_of(encoder, decoder, A, x, dt, wish)
        assert abs(loss.item() - found) < 1e-9
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for begun, done, mine in zip(page["begun"], page["done"], [*weights, A]):
        moved = np.abs(np.array(begun) - np.array(done)).max()
        assert moved > 0.01  # eight steps of Adam, and the comparison says something
        assert np.allclose(done, mine.detach().flatten().numpy(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("guesses", [False, True])
def test_a_batch_asks_for_ends_or_for_guesses_as_well(modules, guesses):
    """Each number of the paths says where it stands, so a row says what it asks."""
    levels = 6
    count = 50
    place = np.arange(levels * count)
    paths = {
        "times": np.linspace(1, 0, levels).tolist(),
        "count": count,
        "inputs": np.stack([place, place], 1).ravel().tolist(),
        "guesses": np.stack([place, -place], 1).ravel().tolist(),
    }
    program = """const found = L.batch(data.paths, 400, data.guesses, L.dice(3));
    return Object.fromEntries(Object.entries(found).map(([k, v]) => [k, [...v]]));"""
    found = in_page(modules, program, paths=paths, guesses=guesses)
    x = np.array(found["x"]).reshape(400, 3)
    wish = np.array(found["wish"]).reshape(400, 2)
    from_, path = np.divmod(x[:, 0].astype(int), count)
    to, same = np.divmod(wish[:, 0].astype(int), count)
    assert (path == same).all() and (wish[:, 1] == -wish[:, 0]).all()
    assert np.allclose(x[:, 2], np.array(paths["times"])[from_])
    assert np.allclose(found["dt"], np.array(paths["times"])[to] - x[:, 2])
    assert (from_[::2] == 0).all() and set(from_[1::2]) == set(range(levels - 1))
    ends = (to == levels - 1).mean()
    assert set(to) == (set(range(levels)) if guesses else {levels - 1})
    assert ends == 1 or 0.5 <= ends < 0.7


def on_the_board(found):
    """The share of points, in units of the board's deviation, that lie on a square."""
    cell = np.clip(np.floor((found / np.sqrt(3) + 1) * 2), 0, 3)
    return (cell.sum(axis=1) % 2 == 0).mean()


def test_the_squares_come_soon_and_only_guesses_need_A(modules, stored):
    """250 iterations take two seconds on a desk. Nothing is asked of the clock here."""
    program = """const P = await import('/learn.mjs'), { network, run, seed } = data;
    const { paths, seen } = P.unpack(data), last = paths.times.length - 1;
    const wish = [...seen.guesses.subarray(2 * last * seen.count)], found = [];
    const x = new Float64Array(3 * seen.count).fill(1), whole = [];
    seen.noise.forEach((v, i) => { x[3 * (i >> 1) + (i % 2)] = v; });
    const answers = (model, t) => {
      const z = L.forward(model.encoder, x).out;
      const moved = L.evolve(model.A, z, new Float64Array(seen.count).fill(t - 1));
      return [...L.forward(model.decoder, moved).out];
    };
    for (const guesses of [false, true]) {
      const model = L.hkd({ ...network, seed }), random = L.dice(seed + 1);
      let at = 0;
      const train = (steps, asked) => {
        for (const end = at + steps; at < end; at += 1) {
          L.learn(model, L.batch(paths, run.batch, asked, random));
          L.adam(model, P.rateAt(run, at), at + 1);
        }
        whole.push([answers(model, 0), answers(model, 1)]);
      };
      train(250, guesses);
      if (!guesses) train(150, true);
    }
    return { wish, whole };"""
    found = in_page(modules, program, **stored[1])
    wish = np.array(found["wish"]).reshape(-1, 2)
    assert on_the_board(wish) > 0.99  # the teacher's own
    error = []
    for way in found["whole"]:
        points = [np.array(answer).reshape(-1, 2) for answer in way]
        error.append([np.mean((each - wish) ** 2) for each in points])
        # a uniform cloud has half of its points there
        assert on_the_board(points[0]) > 0.65 and error[-1][0] < 0.05
    (_, ends_idle), (_, woken_idle), (_, guesses_idle) = error
    assert ends_idle < 0.15 < 0.4 < min(woken_idle, guesses_idle)


def opened(browser, html, **options):
    page = browser.new_page(**options)
    page.set_content(f"<!doctype html><title>learn</title>{html}")
    return page


DRAWN = "() => [...document.querySelectorAll('.learn svg')].map(svg => svg.outerHTML)"


def test_train_pause_ask_and_start_again(browser, stored):
    page = opened(browser, stored[0])
    errors = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    train = page.get_by_role("button", name="Train")
    note = page.locator(".live p")
    assert note.inner_text().startswith("Iteration 0 of 1000.")
    before = page.evaluate(DRAWN)
    train.press("Enter")  # by keyboard
    iteration = """() => {
      const said = document.querySelector('.live p').textContent;
      return Number(said.match(/[0-9]+/)[0]);
    }"""
    page.wait_for_function(f"({iteration})() > 30", timeout=120_000)
    page.get_by_role("button", name="Pause").press("Enter")
    reached = page.evaluate(iteration)
    after = page.evaluate(DRAWN)
    assert len(before) == 4 and all(a != b for a, b in zip(before, after))
    page.wait_for_timeout(300)
    assert page.evaluate(iteration) == reached and page.evaluate(DRAWN) == after
    page.get_by_label("asked for").select_option("0")
    changed = [a != b for a, b in zip(after, page.evaluate(DRAWN))]
    assert changed == [False, True, False, False]  # what is asked stands on the way
    page.get_by_role("button", name="Start again").press("Enter")
    assert page.evaluate(iteration) == 0 and not errors
    page.close()


def test_on_a_phone_the_button_and_all_pictures_fit(browser, stored):
    page = opened(browser, stored[0], viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator(".live").bounding_box()
    assert box["height"] < 700
    for svg in page.locator(".learn svg").all():
        assert svg.bounding_box()["width"] > 150
    page.close()


def test_without_javascript_there_is_a_still(browser, stored):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.set_content(stored[0])
    assert "its still is above" in page.locator("noscript").inner_text()
    context.close()
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    figures = [
        cell["metadata"].get("mystnb", {}).get("figure", {}).get("name")
        for cell in cells
    ]
    still = figures.index("fig-board-learn")
    outputs = json.dumps(cells[still + 1]["outputs"])
    assert PICTURE in outputs and "image/png" in str(cells[still]["outputs"][0]["data"])
