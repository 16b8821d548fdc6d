"""Files missing, cut, padded or altered, servers that misbehave: every error names the
file and the cure.
"""

import hashlib
import http.server
import io
import re
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hkd_mini.engine import cifar10

# per file, so that a whole archive is 130 KB; the layout is the original's otherwise
RECORDS = 7
NAMES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    monkeypatch.setattr(cifar10, "_RECORDS", RECORDS)
    monkeypatch.setenv("HKD_MINI_DATA", str(tmp_path / "nowhere"))
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")


def batch_file(seed):
    generator = torch.Generator().manual_seed(seed)
    records = torch.randint(
        256, (RECORDS, 3073), generator=generator, dtype=torch.uint8
    )
    records[:, 0] = torch.randint(10, (RECORDS,), generator=generator)
    return records


BATCHES = {name: batch_file(seed) for seed, name in enumerate(NAMES)}


def archive(names=NAMES, extra=()):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        members = [
            (f"cifar-10-batches-bin/{name}", BATCHES[name].numpy().tobytes())
            for name in names
        ]
        for path, content in [*members, *extra]:
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "root" / "cifar-10-batches-bin"
    path.mkdir(parents=True)
    for name, records in BATCHES.items():
        (path / name).write_bytes(records.numpy().tobytes())
    return path


class Server:
    """One file over HTTP; `cut` closes the line after so many bytes, `ranges`: whether
    Range is obeyed, `busy` answers 503, `wait` seconds before any answer.
    """

    def __init__(self, content):
        self.content = content
        self.cut = None
        self.ranges = True
        self.busy = False
        self.wait = 0.0
        self.asked = []
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                wish = self.headers.get("Range")
                owner.asked.append(wish)
                time.sleep(owner.wait)
                if owner.busy:
                    return self.send_error(503)
                start = (
                    int(wish.split("=")[1].rstrip("-")) if wish and owner.ranges else 0
                )
                if start >= len(owner.content):
                    return self.send_error(416)
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(owner.content) - start))
                self.end_headers()
                self.wfile.write(owner.content[start : owner.cut])

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/cifar-10-binary.tar.gz"


@pytest.fixture
def serve(monkeypatch):
    servers = []

    def start(content, md5=None):
        server = Server(content)
        threading.Thread(
            target=server.http.serve_forever, args=(0.01,), daemon=True
        ).start()
        servers.append(server)
        monkeypatch.setattr(cifar10, "CIFAR10_URL", server.url)
        monkeypatch.setattr(
            cifar10, "CIFAR10_MD5", md5 or hashlib.md5(content).hexdigest()
        )
        return server

    yield start
    for server in servers:
        server.http.shutdown()
        server.http.server_close()


# --- reading
# --------------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", [False, True])
def test_reads_the_binary_layout(folder, inside):
    train = cifar10.load_cifar10("train", folder if inside else folder.parent)
    test = cifar10.load_cifar10("test", folder.parent)
    assert train.x.shape == (5 * RECORDS, 3, 32, 32) and test.x.shape == (
        RECORDS,
        3,
        32,
        32,
    )
    record = BATCHES["data_batch_2.bin"][3]
    x = train.x[RECORDS + 3]
    label = train.labels[RECORDS + 3]
    assert label == record[0]
    assert x[2, 4, 5] == record[1 + 2 * 1024 + 4 * 32 + 5]  # blue, row 4, column 5
    assert len(train.names) == 10 and train.names[3] == "cat"


def test_default_folder_is_the_environment_variable(folder, monkeypatch):
    monkeypatch.setenv("HKD_MINI_DATA", str(folder.parent))
    assert cifar10.cache_dir() == folder.parent
    assert torch.equal(
        cifar10.load_cifar10("test").x, cifar10.load_cifar10("test", folder).x
    )
    monkeypatch.delenv("HKD_MINI_DATA")
    assert cifar10.cache_dir().name == "hkd-mini"


def test_missing_folder_names_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"hkd-mini data cifar10 --root .*away"):
        cifar10.load_cifar10("train", tmp_path / "away")


def test_unknown_split_is_named(folder):
    with pytest.raises(ValueError, match=r"'valid'.*test.*train"):
        cifar10.load_cifar10("valid", folder)


def cut(raw):
    return raw[:-1]


def pad(raw):
    return raw + b"\0"


def flip_label(raw):
    return bytes([raw[0] | 0x80]) + raw[1:]


@pytest.mark.parametrize(
    "damage, fault", [(cut, "truncated"), (pad, "too long"), (flip_label, "label")]
)
def test_damaged_file_is_named_with_its_cure(folder, damage, fault):
    path = folder / "data_batch_4.bin"
    path.write_bytes(damage(path.read_bytes()))
    cure = f"hkd-mini data cifar10 --root {re.escape(str(folder.parent))}"
    with pytest.raises(ValueError, match=f"data_batch_4.bin.*{fault}.*{cure}"):
        cifar10.load_cifar10("train", folder)
    # the other file is still good
    assert len(cifar10.load_cifar10("test", folder).x) == RECORDS


def test_missing_file_is_named(folder):
    (folder / "data_batch_5.bin").unlink()
    with pytest.raises(
        FileNotFoundError,
        match=r"data_batch_5.bin is missing: run `hkd-mini data cifar10",
    ):
        cifar10.load_cifar10("train", folder)


def test_real_pictures_are_whole_and_balanced(cifar, monkeypatch):
    monkeypatch.undo()
    train = cifar10.load_cifar10("train", cifar)
    test = cifar10.load_cifar10("test", cifar)
    assert train.x.shape == (50_000, 3, 32, 32) and test.x.shape == (10_000, 3, 32, 32)
    assert (train.labels.bincount() == 5000).all() and (
        test.labels.bincount() == 1000
    ).all()
    # the channel means that every CIFAR-10 recipe normalises with: red, green and blue
    # are where they belong
    means = train.x[::10].float().mean((0, 2, 3)) / 255
    assert (means - torch.tensor([0.4914, 0.4822, 0.4465])).abs().max() < 0.01


# --- fetching
# -------------------------------------------------------------------------------------


def test_fetch_unpacks_verifies_and_then_rests(serve, tmp_path):
    server = serve(archive())
    folder = cifar10.fetch_cifar10(tmp_path / "new" / "root", progressbar=False)
    assert sorted(p.name for p in folder.iterdir()) == ["SHA256SUMS", *NAMES]
    for line in (folder / "SHA256SUMS").read_text().splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    x = cifar10.load_cifar10("test", folder.parent).x
    assert torch.equal(x.flatten(1), BATCHES["test_batch.bin"][:, 1:])
    assert cifar10.fetch_cifar10(
        folder.parent, progressbar=False
    ) == folder and server.asked == [None]


def test_progress_bar_counts_the_bytes(serve, tmp_path, capfd):
    serve(archive())
    cifar10.fetch_cifar10(tmp_path)
    assert "100%" in capfd.readouterr().err


def test_altered_pixel_is_caught_and_fetching_again_repairs_it(serve, tmp_path):
    server = serve(archive())
    path = cifar10.fetch_cifar10(tmp_path, progressbar=False) / "test_batch.bin"
    raw = bytearray(path.read_bytes())
    raw[2000] ^= 1  # one bit of one pixel: size and labels are fine
    path.write_bytes(raw)
    with pytest.raises(
        ValueError, match=r"test_batch.bin is altered.*SHA-256.*hkd-mini data cifar10"
    ):
        cifar10.load_cifar10("test", tmp_path)
    assert len(cifar10.load_cifar10("test", tmp_path, verify=False).x) == RECORDS
    cifar10.fetch_cifar10(tmp_path, progressbar=False)
    assert torch.equal(
        cifar10.load_cifar10("test", tmp_path).x.flatten(1),
        BATCHES["test_batch.bin"][:, 1:],
    )
    assert server.asked == [None]  # the archive was still there and sound


def test_broken_manifest_is_reported(serve, tmp_path):
    serve(archive())
    folder = cifar10.fetch_cifar10(tmp_path, progressbar=False)
    (folder / "SHA256SUMS").write_text("not a list\n")
    with pytest.raises(ValueError, match=r"SHA256SUMS"):
        cifar10.load_cifar10("test", tmp_path)


def test_a_broken_download_resumes_where_it_stopped(serve, tmp_path):
    content = archive()
    server = serve(content)
    server.cut = 20_000
    with pytest.raises(
        OSError, match=r"could not fetch http.*data cifar10 --root .*again to resume"
    ):
        cifar10.fetch_cifar10(tmp_path, progressbar=False)
    part = (tmp_path / "cifar-10-binary.tar.gz.part").read_bytes()
    assert 18_000 < len(part) <= 20_000 and part == content[: len(part)]
    server.cut = None
    cifar10.fetch_cifar10(tmp_path, progressbar=False)
    assert server.asked == [None, f"bytes={len(part)}-"]
    assert (tmp_path / "cifar-10-binary.tar.gz").read_bytes() == content


@pytest.mark.parametrize("ranges, error", [(False, ValueError), (True, OSError)])
def test_a_useless_part_costs_one_more_run(serve, tmp_path, ranges, error):
    """A server that ignores Range spoils the checksum; one that refuses it says so.
    Neither can loop.
    """
    content = archive()
    server = serve(content)
    server.ranges = ranges
    (tmp_path / "cifar-10-binary.tar.gz.part").write_bytes(content + b"too much")
    with pytest.raises(error):
        cifar10.fetch_cifar10(tmp_path, progressbar=False)
    folder = cifar10.fetch_cifar10(tmp_path, progressbar=False)
    assert len(cifar10.load_cifar10("train", folder).x) == 5 * RECORDS


def test_two_at_once_fetch_once(serve, tmp_path, caplog):
    """The second waits for the first: both wrote into one file, and lost it."""
    content = archive()
    server = serve(content)
    server.wait = 0.5
    caplog.set_level("INFO", logger="hkd_mini")
    with ThreadPoolExecutor(3) as pool:
        coming = [
            pool.submit(cifar10.fetch_cifar10, tmp_path, progressbar=False)
            for _ in range(3)
        ]
        found = {fetched.result() for fetched in coming}
    assert found == {tmp_path / cifar10.CIFAR10_FOLDER} and server.asked == [None]
    assert (tmp_path / "cifar-10-binary.tar.gz").read_bytes() == content
    assert "another process is fetching there" in caplog.text
    assert not list(tmp_path.glob("*.part"))


def test_a_server_that_is_busy_costs_no_bytes(serve, tmp_path):
    """Only a range that the server has not is a reason to begin anew."""
    content = archive()
    server = serve(content)
    part = tmp_path / "cifar-10-binary.tar.gz.part"
    part.write_bytes(content[:20_000])
    server.busy = True
    with pytest.raises(OSError, match="503"):
        cifar10.fetch_cifar10(tmp_path, progressbar=False)
    assert part.read_bytes() == content[:20_000]
    server.busy = False
    cifar10.fetch_cifar10(tmp_path, progressbar=False)
    assert server.asked[-1] == "bytes=20000-"


def test_wrong_checksum_leaves_nothing_behind(serve, tmp_path):
    serve(archive(), md5="0" * 32)
    with pytest.raises(ValueError, match=r"(?i)md5 hash"):
        cifar10.fetch_cifar10(tmp_path, progressbar=False)
    assert list(tmp_path.rglob("*.bin")) == [] and list(tmp_path.glob("cifar*")) == []


def test_unreachable_server_says_what_to_do(serve, tmp_path):
    server = serve(archive())
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(
        OSError, match=r"could not fetch http.*cifar-10-batches-bin there yourself"
    ):
        cifar10.fetch_cifar10(tmp_path, progressbar=False)


def test_another_archive_is_refused(serve, tmp_path):
    serve(archive(NAMES[:4]))
    with pytest.raises(
        ValueError, match=r"lacks .*data_batch_5.bin.*test_batch.bin.*binary version"
    ):
        cifar10.fetch_cifar10(tmp_path, progressbar=False)


def test_paths_inside_the_archive_are_not_followed(serve, tmp_path):
    absolute = str(tmp_path / "absolute.txt")
    serve(
        archive(
            extra=[("../outside.txt", b"x"), (absolute, b"x"), ("inside.txt", b"x")]
        )
    )
    cifar10.fetch_cifar10(tmp_path / "root", progressbar=False)
    found = {p.name for p in tmp_path.rglob("[!.]*") if p.is_file()}
    assert found == {*NAMES, "SHA256SUMS", "cifar-10-binary.tar.gz"}
