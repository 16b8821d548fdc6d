"""Shards that are killed, cut, flipped, renamed, mixed or many: whole or refused by
name, and memory stays flat.

Run as a program, this file is the victim: `python test_trajectories.py MOMENT FOLDER`
makes paths and dies at MOMENT.
"""

import gc
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest
import safetensors.torch
import torch

from hkd_mini.diffusion.exact import exact_denoiser
from hkd_mini.diffusion.networks import MLPConfig
from hkd_mini.diffusion.samplers import heun
from hkd_mini.diffusion.schedule import karras_sigmas
from hkd_mini.diffusion.teacher import Denoiser
from hkd_mini.engine.files import SEAL
from hkd_mini.hkd import make_paths
from hkd_mini.hkd import paths as stored

ROOT = pathlib.Path(__file__).resolve().parents[2]
MOMENTS = ("batch", "fsync", "replace")
POINTS = torch.tensor([[0.5, -0.5, 0.1], [-0.5, 0.2, 0.0], [0.3, 0.3, -0.7]])
SHARD = 8
N = 29  # paths: 3 whole shards and one of 5


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(make_paths, "SHARD", SHARD)


def making(out, n=N, denoiser=None, **options):
    """The paths of three points, three at a time: the last batch of a shard is odd, and
    one is of one.
    """
    options = {"times": 5, "steps": 6, "seed": 7, "batch": 3, "labels": 4} | options
    denoiser = denoiser or exact_denoiser(POINTS)
    return make_paths.make(denoiser, (3,), n, out, **options)


def contents(folder):
    return {
        path.name: path.read_bytes() for path in sorted(pathlib.Path(folder).iterdir())
    }


def victim(moment, out):
    """Make paths, and die between two batches of the third shard, or inside its
    write.
    """
    make_paths.SHARD = SHARD
    calls = []

    def half(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            os.ftruncate(descriptor, os.fstat(descriptor).st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    def never(source, target, replace=os.replace):
        calls.append(target)
        os.kill(os.getpid(), signal.SIGKILL) if len(calls) == 3 else replace(
            source, target
        )

    if moment == "fsync":
        os.fsync = half
    if moment == "replace":
        os.replace = never
    for done in making(out):
        if moment == "batch" and done == 2 * SHARD + 3:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    folders = {moment: tmp_path_factory.mktemp(moment) for moment in MOMENTS}
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, __file__, moment, str(folder)], env=environment
        )
        for moment, folder in folders.items()
    ]
    assert [child.wait(timeout=200) for child in running] == [-signal.SIGKILL] * len(
        running
    )
    return folders


@pytest.fixture
def whole(tmp_path):
    list(making(tmp_path / "whole"))
    return tmp_path / "whole"


def test_few_paths_are_the_beginning_of_many(tmp_path):
    """Noises and classes, whatever the length of the last shard."""
    many = {}
    for n in (1, 4, 13, N):
        list(making(tmp_path / str(n), n, no_class=0.4))
        found = stored.Trajectories(tmp_path / str(n))
        many[n] = found.gather(torch.arange(n), torch.zeros(n, 1).long())
    for n, few in many.items():
        assert torch.equal(few["labels"], many[N]["labels"][:n])
        assert torch.equal(few["x"], many[N]["x"][:n])
    assert set(many[N]["labels"].tolist()) > {-1}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_to_the_same_bytes(killed, whole, moment):
    out = killed[moment]
    left = contents(out)
    assert [name for name in left if not name.startswith(".")] == [
        "shard-00000.safetensors",
        "shard-00001.safetensors",
    ]
    parts = [name for name in left if name.endswith(".part")]
    assert len(parts) == (moment != "batch"), "the write that was under way"
    assert len(stored.Trajectories(out)) == 2 * SHARD, "no part is taken for a shard"
    assert list(making(out, resume=True))[:2] == [SHARD, 2 * SHARD]
    assert {
        name: bytes for name, bytes in contents(out).items() if name not in parts
    } == contents(whole)


def test_shares_of_the_work_make_the_whole(whole, tmp_path):
    first, second = (making(tmp_path / "shared", share=(rank, 2)) for rank in (0, 1))
    assert list(first)[-1] == 2 * SHARD and list(second)[-1] == N - 2 * SHARD
    assert contents(tmp_path / "shared") == contents(whole)


def test_a_larger_n_goes_on_from_a_smaller(whole, tmp_path):
    list(making(tmp_path / "more", n=12))
    with pytest.raises(
        FileExistsError, match="more already holds 2 shards: --resume to continue"
    ):
        making(tmp_path / "more")
    list(making(tmp_path / "more", resume=True))
    assert len(stored.Trajectories(tmp_path / "more")) == N
    with pytest.raises(
        ValueError,
        match=r"shard-00003\.safetensors holds 5 paths of a run of more than n = 25",
    ):
        making(tmp_path / "more", n=25, resume=True)


def test_the_header_says_how_the_paths_were_made(whole):
    for i, path in enumerate(sorted(whole.iterdir())):
        with safetensors.safe_open(path, "pt") as file:
            header = json.loads(file.metadata()["trajectories"])
            count = min(SHARD, N - i * SHARD)
            assert (
                file.get_tensor("x").shape == (count, 5, 3)
                and file.get_tensor("x").dtype == torch.float16
            )
            assert file.get_tensor("labels").shape == (count,)
        assert header["sigmas"] == karras_sigmas(6)[[0, 2, 3, 4, 6]].tolist()
        assert (
            header["shard"],
            header["seed"],
            header["steps"],
            header["shape"],
            header["labels"],
        ) == (
            i,
            7,
            6,
            [3],
            4,
        )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_stored_is_where_the_path_began_and_went(tmp_path, precision):
    """The noise is rounded before the sampler sees it, so the start is exact; the rest
    is within half precision.
    """
    seen = []

    def watched(denoiser, x, sigmas, labels):
        path = heun(denoiser, x, sigmas, labels)
        seen.append((x.clone(), path.x, labels))
        return path

    torch.manual_seed(0)
    denoiser = Denoiser(
        MLPConfig(dim=3, channels=8, width=16, depth=1, state=6, labels=4)
    ).eval()
    list(making(tmp_path, denoiser=denoiser, sampler=watched, precision=precision))
    paths = stored.Trajectories(tmp_path)
    x_T = torch.cat([s[0] for s in seen])
    x = torch.cat([s[1] for s in seen], dim=1)
    read = paths.paths(range(N))
    assert torch.equal(read[0], x_T) and torch.equal(x[0], x_T)
    torch.testing.assert_close(
        read, x[[0, 2, 3, 4, 6]].float(), rtol=2**-11, atol=2**-24
    )
    assert torch.equal(
        read[0],
        torch.cat(
            [
                make_paths.noise_for(7, i, min(SHARD, N - i * SHARD), (3,))
                for i in range(4)
            ]
        )
        .mul(80)
        .half()
        .float(),
    )
    assert len(set(map(tuple, x_T.tolist()))) == N, "no two paths begin alike"
    index = torch.tensor([28, 0, 9])
    at = torch.tensor([[0, 4], [2, 1], [3, 3]])
    batch = paths.gather(index, at)
    assert torch.equal(
        batch["x"], torch.stack([read[at[i], index[i]] for i in range(3)])
    )
    assert torch.equal(batch["end"], read[-1, index])
    assert torch.equal(batch["sigma"], karras_sigmas(6)[[0, 2, 3, 4, 6]].float()[at])
    assert torch.equal(batch["labels"], torch.cat([s[2] for s in seen])[index])


def damaged(path):
    """Every way in which a shard may not be what was written."""
    content = path.read_bytes()
    for size in (0, 7, 80, len(content) // 2, len(content) - 1):
        yield content[:size]
    for place in (9, 60, 300, len(content) // 2, len(content) - 1):
        flipped = bytearray(content)
        flipped[place] ^= 16
        yield bytes(flipped)
    yield safetensors.torch.save({"x": torch.zeros(8, 5, 3)})
    yield safetensors.torch.save({"x": torch.zeros(8, 5, 3)}, {"trajectories": "[]"})
    yield safetensors.torch.save({"y": torch.zeros(8, 5, 3)}, {"trajectories": "{}"})
    yield b"\x80\x04N."


def test_damaged_and_foreign_shards_are_refused_by_name(whole):
    path = whole / "shard-00002.safetensors"
    for content in list(damaged(path)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f"{path}: not a whole shard")):
            stored.Trajectories(whole)
        with pytest.raises(ValueError, match=re.escape(f"{path}: not a whole shard")):
            making(whole, resume=True)


def test_a_refused_shard_is_made_again_once_deleted(whole):
    before = contents(whole)
    (whole / "shard-00001.safetensors").unlink()
    list(making(whole, resume=True))
    assert contents(whole) == before


def test_shards_of_two_runs_do_not_mix(whole, tmp_path):
    path = whole / "shard-00001.safetensors"
    torch.manual_seed(0)
    config = MLPConfig(dim=3, channels=8, width=16, depth=1, state=6, labels=4)
    others = {
        "seed": {"seed": 8},
        "sigmas": {"times": 4},
        "steps": {"steps": 7},
        "labels": {"labels": 0},
        "teacher": {"denoiser": Denoiser(config)},
        "precision": {"precision": "bf16"},
    }
    for what, options in others.items():
        list(making(tmp_path / what, **options))
        shutil.copy(tmp_path / what / path.name, path)
        with pytest.raises(
            ValueError, match=f"{re.escape(str(path))}: .*{what}.* differ"
        ):
            stored.Trajectories(whole)
        with pytest.raises(
            ValueError,
            match=f"{re.escape(str(path))} is of another run .*{what}.* differ",
        ):
            making(whole, resume=True)


def test_a_renamed_shard_is_not_read_twice(whole):
    shutil.copy(whole / "shard-00001.safetensors", whole / "shard-00007.safetensors")
    with pytest.raises(ValueError, match=r"shard-00007.*its header says shard-00001"):
        stored.Trajectories(whole)


def test_what_cannot_be_made_or_read_is_said(tmp_path, whole):
    for options, words in [
        ({"n": 0}, "n = 0 paths"),
        ({"batch": 0}, "0 at once"),
        ({"times": 1}, "times = 1"),
    ]:
        with pytest.raises(ValueError, match=words):
            making(tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
    with pytest.raises(FileNotFoundError, match=r"new: no shard-"):
        stored.Trajectories(tmp_path / "new")
    for index in (-1, N):
        with pytest.raises(IndexError, match=f"path {index} of {N}"):
            stored.Trajectories(whole).path(index)


def resident():
    """Bytes of this process that are in memory."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf(
        "SC_PAGE_SIZE"
    )


@pytest.mark.skipif(
    not pathlib.Path("/proc/self/statm").exists(),
    reason="needs /proc to see its own memory",
)
def test_memory_and_open_files_stay_flat(tmp_path, monkeypatch):
    """48 MB in 120 shards: opened, verified and read here and there in a fraction of
    that.
    """
    monkeypatch.setattr(make_paths, "SHARD", 17)
    nothing = lambda x, sigma, labels: torch.zeros_like(x)
    list(
        make_paths.make(
            nothing, (3, 32, 32), 120 * 17, tmp_path, times=4, steps=3, batch=17
        )
    )
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert size > 48e6
    stored.Trajectories(tmp_path).path(0)  # what is loaded at first use
    gc.collect()
    before = resident()
    files = len(os.listdir("/proc/self/fd"))
    paths = stored.Trajectories(tmp_path)
    opened = resident()
    for i in range(0, len(paths), 97):
        assert paths.path(i).shape == (4, 3, 32, 32)
    assert opened - before < size / 8 and resident() - before < size / 4
    assert len(os.listdir("/proc/self/fd")) - files < 10, (
        "a folder may hold more shards than a process may open files"
    )


def test_two_seeds_and_two_shards_are_other_noise():
    batches = [
        make_paths.noise_for(*pair, 3, (2,))
        for pair in [(0, 0), (0, 1), (1, 0), (1, 1)]
    ]
    values = torch.cat(batches).flatten().tolist()
    assert len(set(values)) == len(values) and torch.equal(
        batches[1], make_paths.noise_for(0, 1, 3, (2,))
    )


def test_the_fingerprint_is_of_the_weights():
    torch.manual_seed(0)
    one = Denoiser(MLPConfig())
    two = Denoiser(MLPConfig())
    assert (
        make_paths.fingerprint(one) != make_paths.fingerprint(two)
        and len(make_paths.fingerprint(one)) == 64
    )
    two.load_state_dict(one.state_dict())
    assert make_paths.fingerprint(one) == make_paths.fingerprint(two)
    assert make_paths.fingerprint(exact_denoiser(POINTS)) == ""
    assert SEAL == "sha256"


if __name__ == "__main__":
    victim(*sys.argv[1:])
