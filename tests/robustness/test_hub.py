"""Models on the Hugging Face hub: pushed and fetched by the hub's own client, in
processes of their own, from a server that stands in for the hub.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hub_server import Server
from huggingface_hub import EvalResult, ModelCard, constants
from mixed_folder import BROKEN, mixed_folder

from hkd_mini.app import zoo
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.unet import UNetConfig
from hkd_mini.engine import hub, weights
from hkd_mini.engine.files import read_tensors
from hkd_mini.hkd.config import HKDConfig
from hkd_mini.hkd.model import HKD

ROOT = pathlib.Path(__file__).resolve().parents[2]
SMALL = UNetConfig(channels=16, mult=(1, 2), blocks=1, attention=(), patch=2)
TOY = HKDConfig(MLPConfig(channels=8, width=16, depth=1, state=6))


@pytest.fixture(scope="module")
def server():
    with Server() as running:
        yield running


def model(seed=0):
    """A small HKD, as `MODEL` makes it in another process."""
    torch.manual_seed(seed)
    return HKD(TOY)


MODEL = """
import json, os, torch, hkd_mini
from hkd_mini import HKD, HKDConfig
from hkd_mini.diffusion.networks import MLPConfig

def model(seed=0):
    torch.manual_seed(seed)
    return HKD(HKDConfig(MLPConfig(channels=8, width=16, depth=1, state=6)))
"""


def script(server, folder, text, **environment):
    """Run a user's script in `folder`, away from the tree; what its last line says."""
    (folder / "script.py").write_text(textwrap.dedent(text), encoding="utf-8")
    mine = {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(folder / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "*",
    }
    others = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGG"))}
    done = subprocess.run(
        [sys.executable, "script.py"],
        cwd=folder,
        env={**others, **mine, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def equal(a, b):
    ours = a.state_dict()
    theirs = b.state_dict()
    return list(ours) == list(theirs) and all(
        torch.equal(ours[k], theirs[k]) for k in ours
    )


PUSH = """
from huggingface_hub import EvalResult

place = {"dataset_type": "toy", "dataset_name": "Toy", "task_type": "points"}
result = EvalResult(metric_type="distance", metric_value=0.25, **place)
first = model().push_to_hub("me/toy", private=True, results=[result])
model(1).push_to_hub("me/toy", branch="v2", dtype=torch.float32)
model(2).push_to_hub("me/toy", card="---\\nlicense: mit\\n---\\n\\n# Mine\\n")

def same(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)

v2 = HKD.from_pretrained("me/toy", revision="v2")
old = HKD.from_pretrained("me/toy", revision=first.rsplit("/", 1)[1])
by_name = hkd_mini.load("hf://me/toy@v2")
again = HKD.from_pretrained("me/toy", revision="v2", local_files_only=True)
print(json.dumps({
    "first": first,
    "v2": same(v2, model(1)) and same(by_name, v2) and same(again, v2),
    "half": same(old, model().half().float()),
    "training": v2.training,
}))
"""


def test_what_is_pushed_comes_back_bit_for_bit(server, tmp_path):
    """Weights by git LFS, as the hub stores them, to main and to a branch."""
    token = {"HF_TOKEN": "hf_me", "HF_HUB_DISABLE_XET": "1"}
    said = script(server, tmp_path, MODEL + PUSH, **token)
    assert said["v2"] and said["half"] and not said["training"]
    assert said["first"].startswith(f"{server.url}/me/toy/commit/")
    assert server.hub.repos["me/toy"]["private"]
    stored = server.hub.files("me/toy", said["first"].rsplit("/", 1)[1])
    assert set(stored) == {".gitattributes", *weights.KEPT}
    model().save_pretrained(tmp_path / "saved")
    for name in (weights.WEIGHTS, weights.CONFIG):
        assert (tmp_path / "saved" / name).read_bytes() == stored[name]
    assert stored[weights.WEIGHTS] in server.hub.objects.values()
    card = ModelCard(stored[hub.CARD].decode())
    assert card.data.library_name == "hkd-mini" and card.data.model_name == "toy"
    (result,) = card.data.eval_results
    assert (result.metric_type, result.metric_value) == ("distance", 0.25)
    assert 'hkd_mini.load("hf://me/toy")' in card.text
    newest = server.hub.files("me/toy")
    assert newest[hub.CARD].startswith(b"---\nlicense: mit")
    (tmp_path / "x").write_bytes(newest[weights.WEIGHTS])
    found = read_tensors(tmp_path / "x")[0]
    assert all(
        torch.equal(v.half(), found[k]) for k, v in model(2).state_dict().items()
    )


OUTSIDE = """
model(3).push_to_hub("me/plain", token="hf_me")
its = HKD.from_pretrained("me/plain")  # of a public one, without a token
noise = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
bundled = HKD.from_pretrained("hkd-cifar10-tiny")

from hkd_mini.app import cli

words = "sample --weights hf://me/plain --n 5 --seed 1 --out x.npy"
cli.main(words.split())
os.environ["HF_TOKEN"] = "hf_me"
"""
SAID = """
print(json.dumps([its.sample(noise).tolist(), type(bundled).__name__]))
"""


def of_readme():
    """What the README says of the hub, with a budget of seconds."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```py\n(.*?)```", text, re.DOTALL)
    assert code.count("user/name") == 2 and "300" in code
    return code.replace("user/name", "me/named").replace("300", "6")


def test_a_script_outside_the_tree_loads_by_name(server, tmp_path):
    """By the client's newer way of sending, which it takes where nothing forbids it;
    with the command line, and as the README says it.
    """
    server.hub.large = False
    mixed_folder(tmp_path / "my-pictures", 12)
    shutil.rmtree(tmp_path / "my-pictures" / "__MACOSX")
    for broken in BROKEN:
        (tmp_path / "my-pictures" / broken).unlink()
    saved(tmp_path / "mine" / "hkd", HKD(HKDConfig(SMALL)))
    x, kind = script(server, tmp_path, MODEL + OUTSIDE + of_readme() + SAID)
    mine = HKD.from_folder(saved(tmp_path / "plain", model(3)))
    noise = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    assert np.allclose(x, mine.sample(noise), atol=1e-5) and kind == "HKD"
    assert np.load(tmp_path / "x.npy").shape == (5, 2)
    named = ModelCard(server.hub.files("me/named")[hub.CARD].decode()).data
    measured = {r.metric_type: r.metric_value for r in named.eval_results}
    assert set(measured) == {"frechet_distance", "precision", "recall"}
    assert named.eval_results[0].dataset_name == "my-pictures"
    server.hub.large = True


def saved(folder, it):
    it.save_pretrained(folder)
    return folder


WRONG = """
def refused(call):
    try:
        call()
    except (OSError, ValueError) as error:
        return [type(error).__name__, str(error)]
    return ["", ""]

def with_token(token, call):
    os.environ["HF_TOKEN"] = token
    try:
        return refused(call)
    finally:
        del os.environ["HF_TOKEN"]

push = lambda name, **how: lambda: model().push_to_hub(name, **how)
fetch = lambda name, **how: lambda: HKD.from_pretrained(name, **how)
broken = model()
with torch.no_grad():
    next(broken.parameters()).fill_(torch.nan)
print(json.dumps({
    "no token": refused(push("me/new")),
    "reader": with_token("hf_reader", push("me/new")),
    "invalid": refused(push("me/new", token="hf_nobody")),
    "not mine": with_token("hf_me", push("you/new")),
    "bad name": with_token("hf_me", push("a/b/c")),
    "not finite": with_token("hf_me", lambda: broken.push_to_hub("me/new")),
    "no card": with_token("hf_me", push("me/half", card="# no metadata")),
    "nowhere": refused(fetch("runs/hkd")),
    "private": refused(fetch("me/secret")),
    "no revision": refused(fetch("me/empty", revision="v9")),
    "at revision": refused(lambda: hkd_mini.load("hf://me/empty@v9")),
    "no weights": refused(fetch("me/empty")),
    "no name": refused(fetch("runs/hkd/final")),
    "cache": refused(fetch("me/empty", revision="v9", local_files_only=True)),
}))
"""


@pytest.fixture(scope="module")
def refusals(server, tmp_path_factory):
    server.hub.make("me/secret", private=True)
    server.hub.make("me/empty")
    return script(server, tmp_path_factory.mktemp("wrong"), MODEL + WRONG)


@pytest.mark.parametrize(
    ("case", "kind", "says"),
    [
        ("no token", "PermissionError", ["me/new", "/settings/tokens", "auth login"]),
        ("reader", "PermissionError", ["may not write", "403", "HF_TOKEN"]),
        ("invalid", "PermissionError", ["may not write", "401", "auth login"]),
        ("not mine", "PermissionError", ["you/new", "may not write", "403"]),
        ("bad name", "ValueError", ["a/b/c", "user/name"]),
        ("not finite", "ValueError", ["finite"]),
        ("no card", "ValueError", ["metadata", "README.md"]),
        ("nowhere", "FileNotFoundError", ["runs/hkd", "no such folder", "auth login"]),
        ("private", "FileNotFoundError", ["me/secret", "private", "HF_TOKEN"]),
        ("no revision", "FileNotFoundError", ["me/empty", "'v9'", "branch"]),
        ("at revision", "FileNotFoundError", ["me/empty", "'v9'", "branch"]),
        ("no weights", "FileNotFoundError", ["me/empty", "no ", "push_to_hub"]),
        ("no name", "ValueError", ["runs/hkd/final", "no folder", "user/name"]),
        ("cache", "ConnectionError", ["me/empty", "cache", "connection"]),
    ],
)
def test_a_refusal_says_what_to_do(refusals, case, kind, says):
    found, words = refusals[case]
    assert found == kind, words
    assert all(part in words for part in says), words
    assert "\n" not in words and len(words) < 500


def test_nothing_is_made_on_the_hub_before_it_can_be_filled(server, refusals):
    assert "me/new" not in server.hub.repos and "you/new" not in server.hub.repos


def test_a_hub_that_is_down_is_named(tmp_path, monkeypatch):
    with Server() as gone:
        monkeypatch.setattr(constants, "ENDPOINT", gone.url)
    fetch = lambda: HKD.from_pretrained("me/toy", cache_dir=tmp_path)
    push = lambda: model().push_to_hub("me/toy", token="hf_me")
    for call in (fetch, push):
        with pytest.raises(ConnectionError, match=f"me/toy: .*{gone.url}"):
            call()


def test_a_cache_that_cannot_be_written_is_no_connection(server, tmp_path, monkeypatch):
    """What this machine refuses is said as it is."""
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    (tmp_path / "cache").write_text("a file, and no folder")
    server.hub.make("me/there")
    server.hub.add("me/there", "main", {weights.CONFIG: b"{}"}, "one file")
    with pytest.raises(OSError, match="cache") as found:
        HKD.from_pretrained("me/there", cache_dir=tmp_path / "cache")
    assert "was not reached" not in str(found.value)


def test_names_of_the_hub():
    assert hub.repository("hf://me/toy@v2") == ("me/toy", "v2")
    assert hub.repository("me/toy") == ("me/toy", None)
    assert not zoo.is_function("hf://me/toy")


def test_a_card_of_a_folder_says_what_it_holds(tmp_path):
    place = {"dataset_type": "toy", "dataset_name": "Toy", "task_type": "points"}
    result = EvalResult(metric_type="distance", metric_value=0.5, **place)
    card = model().generate_model_card("me/toy", [result])
    again = ModelCard(str(card))
    assert again.data.eval_results == card.data.eval_results
    model().save_pretrained(tmp_path)
    text = (tmp_path / hub.CARD).read_text(encoding="utf-8")
    assert "# HKD" in text and "parameters" in text and "user/name" not in text
