"""Weights in torch's old file format are read without running them: the tensors that
were saved, and a refusal for whatever else the file may hold.
"""

import io
import os

import pytest
import torch

from hkd_mini.diffusion.pickles import read_state


def saved(path, state):
    torch.save(state, path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture
def state():
    rng = torch.Generator().manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.BatchNorm2d(5))
    state = net.state_dict()  # with attributes of its own, and an integer
    base = torch.randn(4, 6, generator=rng)
    shared = {"view": base[1:, ::2], "turned": base.T, "half": base.half()}
    return {**state, **shared, "double": base.double(), "one": torch.tensor(3.0)}


def test_the_tensors_are_those_that_were_saved(tmp_path, state):
    found = read_state(saved(tmp_path / "state.pth", state))
    assert found.keys() == state.keys()
    for name, tensor in state.items():
        assert found[name].dtype == tensor.dtype and torch.equal(found[name], tensor)


def test_a_modules_own_state_is_read(tmp_path):
    net = torch.nn.BatchNorm1d(3)
    found = read_state(saved(tmp_path / "state.pth", net.state_dict()))
    assert all(torch.equal(found[k], v) for k, v in net.state_dict().items())


class Harm:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


def test_nothing_in_the_file_is_run(tmp_path, monkeypatch, state):
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "state.pth", {**state, "harm": Harm()})
    with pytest.raises(ValueError, match=r"state.pth: refused.*mkdir"):
        read_state(path)
    assert not (tmp_path / "harmed").exists()


def test_a_file_cut_anywhere_is_refused(tmp_path, state):
    whole = saved(tmp_path / "state.pth", state).read_bytes()
    for part in (0, 1, 20, 200, len(whole) // 2, len(whole) - 1):
        path = tmp_path / f"{part}.pth"
        path.write_bytes(whole[:part])
        with pytest.raises(ValueError, match=f"{part}.pth: refused"):
            read_state(path)


@pytest.mark.parametrize("content", [{"a": 1}, [1, 2], "text", {"a": [1]}])
def test_what_is_no_state_is_refused(tmp_path, content):
    with pytest.raises(ValueError, match="refused"):
        read_state(saved(tmp_path / "state.pth", content))


def test_the_new_format_is_refused_and_a_missing_file_said(tmp_path, state):
    file = io.BytesIO()
    torch.save(state, file)
    path = tmp_path / "new.pth"
    path.write_bytes(file.getvalue())
    with pytest.raises(ValueError, match="refused"):
        read_state(path)
    with pytest.raises(FileNotFoundError):
        read_state(tmp_path / "nothing.pth")


def test_a_count_that_lies_is_refused(tmp_path):
    path = saved(tmp_path / "state.pth", {"a": torch.ones(3)})
    whole = path.read_bytes()
    assert whole[-20:-12] == (3).to_bytes(8, "little")
    for count in (0, 4, 2**60):
        path.write_bytes(whole[:-20] + count.to_bytes(8, "little") + whole[-12:])
        with pytest.raises(ValueError, match="refused"):
            read_state(path)
    path.write_bytes(whole[:-20] + (2).to_bytes(8, "little") + whole[-12:])
    with pytest.raises(ValueError, match="refused"):  # the tensor wants three
        read_state(path)
