"""The hub: downloads are complete and checked, even where transfers break; otherwise the error is one sentence."""

import contextlib
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import fakehub
import pytest
from fakehub import FakeHub

from nanochat import hub
from nanochat.errors import UserError

REPO = "tester/tiny-d2"
WEIGHTS = bytes(range(256)) * 8192  # 2 MB
FILES = {"config.json": b'{"n_layer": 2}', "model.safetensors": WEIGHTS, "README.md": "crêpes\n".encode()}
PARTIAL = f"here/model.safetensors.{fakehub.sha256(WEIGHTS)[:12]}.incomplete"
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    monkeypatch.setattr(hub, "PAUSE", 0.01)
    with fakehub.running(tmp_path / "huggingface", monkeypatch) as fake:
        fake.add(REPO, FILES)
        yield fake


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def bring(folder: Path | None, repo: str = REPO, allow: list[str] | None = None, revision: str | None = None) -> Path:
    return hub.bring(hub.look(repo, allow, revision), folder)


def test_a_folder_gets_what_it_lacks(fake: FakeHub, tmp_path: Path) -> None:
    assert contents(bring(tmp_path / "here")) == FILES
    fake.asked.clear()
    bring(tmp_path / "here")
    assert fake.sent("resolve|large") == []
    changed = {**FILES, "config.json": b'{"n_layer": 3}'}
    fake.add(REPO, changed)
    fake.asked.clear()
    assert contents(bring(tmp_path / "here")) == changed
    assert len(fake.sent("/main|/resolve/")) == 1


def test_the_cache_is_the_one_of_other_programs(fake: FakeHub, tmp_path: Path) -> None:
    folder = hub.fetch(REPO)
    assert contents(folder) == FILES
    from huggingface_hub import hf_hub_download

    assert Path(hf_hub_download(REPO, "config.json", local_files_only=True)) == folder / "config.json"
    fake.asked.clear()
    assert hub.fetch(REPO) == folder
    assert fake.sent("large") == []


def test_only_what_a_model_needs_is_fetched(fake: FakeHub, tmp_path: Path) -> None:
    others = ["pytorch_model.bin", "tf_model.h5", "onnx/model.json", "optim_000001_rank0.pt", "rust_model.ot"]
    fake.add(REPO, {**FILES, **dict.fromkeys(others, b"other weights")})
    assert contents(bring(tmp_path / "here")) == FILES
    assert contents(hub.fetch(REPO)) == FILES
    fake.add(REPO, {"pytorch_model.bin": b"the only weights"})
    assert list(contents(bring(tmp_path / "old"))) == ["pytorch_model.bin"]


def test_files_can_be_chosen(fake: FakeHub, tmp_path: Path) -> None:
    assert list(contents(bring(tmp_path / "here", allow=["*.json"]))) == ["config.json"]
    with pytest.raises(UserError, match=r"does not hold a file named \*\.gguf; it holds README.md"):
        hub.fetch(REPO, ["*.gguf"])


def test_a_broken_transfer_resumes(fake: FakeHub, tmp_path: Path) -> None:
    fake.fail("/large/", cut=1_000_000)
    assert contents(bring(tmp_path / "here")) == FILES
    first, second = fake.sent("/large/")
    assert first.range is None
    assert second.range is not None and 0 < int(second.range[6:-1]) <= 1_000_000


@pytest.mark.parametrize("place", ["here", None])  # a folder, or the cache
def test_another_run_resumes(place: str | None, fake: FakeHub, tmp_path: Path) -> None:
    folder = tmp_path / place if place else None
    fake.fail("/large/", cut=1_500_000)
    fake.fail("resolve.*safetensors", skip=1, times=6, status=503)
    with pytest.raises(UserError, match="answers 503 for tester/tiny-d2 .* try again later"):
        bring(folder)
    assert not list(tmp_path.rglob("model.safetensors"))
    fake.faults.clear()
    fake.asked.clear()
    listing = hub.look(REPO)
    assert 0 < hub.missing(listing, folder) < listing.size - 1_000_000
    assert contents(bring(folder)) == FILES
    assert [each.range is not None for each in fake.sent("/large/")] == [True]
    assert fake.sent("config.json") == []


def test_a_server_without_ranges_sends_the_whole_file_again(fake: FakeHub, tmp_path: Path) -> None:
    fake.ranges = False
    fake.fail("/large/", cut=1_000_000)
    assert contents(bring(tmp_path / "here")) == FILES


def test_a_file_with_a_wrong_checksum_is_fetched_again(fake: FakeHub, tmp_path: Path) -> None:
    fake.fail("/large/", corrupt=True)
    fake.fail("resolve-cache.*config", corrupt=True)
    assert contents(bring(tmp_path / "here")) == FILES


@pytest.mark.parametrize("pattern", ["/large/", "resolve-cache.*config"])
def test_a_checksum_that_stays_wrong_leaves_nothing(pattern: str, fake: FakeHub, tmp_path: Path) -> None:
    fake.fail(pattern, corrupt=True, times=9)
    with pytest.raises(UserError, match="arrived twice with another checksum than the hub says"):
        bring(tmp_path / "here")
    assert fake.faults[0].times == 7
    assert FILES.items() > contents(tmp_path / "here").items()


def test_a_busy_hub_is_waited_for(
    fake: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(hub.time, "sleep", waited.append)
    fake.fail("/api/models", status=429, headers={"Retry-After": "7"})
    fake.fail("/large/", status=429, headers={"RateLimit": '"resolvers";r=0;t=55'})
    fake.fail("/large/", status=503)
    assert contents(bring(tmp_path / "here")) == FILES
    assert waited[:2] == [7, 55]
    assert "waiting 7s for the hub (it answers 429)" in capsys.readouterr().out
    fake.fail("/api/models", status=429, headers={"Retry-After": "7200"})  # longer than anybody waits
    with pytest.raises(UserError, match="answers 429 for tester/tiny-d2 .*; try again later"):
        hub.fetch(REPO)


def test_a_hub_that_vanishes(fake: FakeHub, tmp_path: Path) -> None:
    message = f"{fake.url} cannot be reached for tester/tiny-d2 .* check the network and HF_ENDPOINT, and start again"
    fake.fail("/large/", cut=1_000_000, vanish=True)
    with pytest.raises(UserError, match=message):  # while it sends
        bring(tmp_path / "here")
    assert 0 < (tmp_path / PARTIAL).stat().st_size <= 1_000_000
    with pytest.raises(UserError, match=message):  # at once
        bring(tmp_path / "here")


def test_without_a_hub_the_cache_is_used(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from huggingface_hub import constants

    folder = hub.fetch(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    fake.asked.clear()
    assert hub.fetch(REPO) == folder
    assert "comes from the cache" in capsys.readouterr().out
    assert fake.asked == []
    with pytest.raises(UserError, match="other/model is not in the cache, and HF_HUB_OFFLINE is set"):
        hub.fetch("other/model")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="not in the cache"):
        hub.fetch(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    fake.vanish()
    assert hub.fetch(REPO, ["config.json"]) == folder


@pytest.mark.parametrize(
    "repo, revision, message",
    [
        ("tester/nothing", None, "has no tester/nothing, or it is private; check the name"),
        ("tester/private", None, "has no tester/private, or it is private"),
        ("tester/gated", None, "tester/gated is gated; ask for access at"),
        (REPO, "v9", "tester/tiny-d2 has no revision 'v9'"),
        ("no such name", None, "'no such name' is not a repository name; expected one such as"),
        ("a/b/c", None, "'a/b/c' is not a repository name"),
        ("tester/evil", None, "names a file that must not be written"),
        ("tester/absolute", None, "names a file that must not be written"),
        ("tester/long", None, "names a file that must not be written, 'nnn"),
        ("tester/deep", None, "names a file that must not be written, 'n/n"),
        ("tester/escape", None, r"names a file that must not be written, '.x1b\[2Jconfig.json'"),
        ("tester/empty", None, "tester/empty does not hold a model; it holds picture.png"),
    ],
)
def test_what_cannot_be_fetched_is_explained(
    repo: str, revision: str | None, message: str, fake: FakeHub, tmp_path: Path
) -> None:
    fake.add("tester/private", FILES, private=True)
    fake.add("tester/gated", FILES, gated=True)
    fake.add("tester/evil", {"../../evil.json": b"{}"})
    fake.add("tester/absolute", {"/tmp/evil.json": b"{}"})
    fake.add("tester/long", {"n" * 300 + ".json": b"{}"})
    fake.add("tester/deep", {"n/" * 600 + "config.json": b"{}"})
    fake.add("tester/escape", {"\x1b[2Jconfig.json": b"{}"})
    fake.add("tester/empty", {"picture.png": b"png"})
    with pytest.raises(UserError, match=message):
        bring(tmp_path / "here", repo, revision=revision)
    assert contents(tmp_path) == {}


def test_a_token_opens_private_repositories_and_is_sent_to_the_hub_only(
    fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.add("tester/private", FILES, private=True)
    monkeypatch.setenv("HF_TOKEN", fakehub.TOKEN)
    assert contents(bring(tmp_path / "here", "tester/private")) == FILES
    assert [each.authorization for each in fake.sent("/large/")] == [None]
    assert all(each.authorization for each in fake.sent("/resolve/"))


@pytest.mark.parametrize("body", [None, [1], {"siblings": 3}, {"siblings": [{"rfilename": 1}]}])
def test_a_server_that_is_no_hub(body: object, fake: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with listening("" if body is None else json.dumps(body)) as (url, _):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        with pytest.raises(UserError, match="protocol|does not hold a model|neither size nor checksum"):
            hub.fetch(REPO)


def test_a_hub_that_accepts_and_never_answers_is_asked_once(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hub.fetch(REPO)
    monkeypatch.setattr(hub, "GLANCE", 0.05)
    with listening(None) as (url, asked):
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        assert hub.fetch(REPO) == folder
        assert "comes from the cache" in capsys.readouterr().out
        assert len(asked) == 1
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.05)
        with pytest.raises(hub.Unreachable, match="cannot be reached for other/model"):
            hub.fetch("other/model")
        assert len(asked) == 2
        assert "waiting" not in capsys.readouterr().out


def test_a_busy_hub_is_not_waited_for_where_the_cache_holds_all(
    fake: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = hub.fetch(REPO)
    fake.fail("/api/models", status=429, headers={"Retry-After": "200"})
    assert hub.fetch(REPO) == folder
    assert "waiting" not in capsys.readouterr().out


@contextlib.contextmanager
def listening(answer: str | None) -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers each connection with this body, or not at all; its address and what it was sent."""
    asked: list[bytes] = []
    kept: list[socket.socket] = []

    def serve(server: socket.socket) -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:  # closed
                return
            kept.append(connection)
            asked.append(connection.recv(1 << 16))
            if answer is not None:
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\nConnection: close\r\n\r\n"
                connection.sendall((head + answer).encode())

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=serve, args=(server,), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        server.shutdown(socket.SHUT_RDWR)
    for connection in kept:
        connection.close()


def test_a_disk_that_is_too_small_is_noticed_first(fake: FakeHub, small_disk: Path) -> None:
    fake.add(REPO, {"model.safetensors": WEIGHTS * 3})
    with pytest.raises(UserError, match=r"tester/tiny-d2 needs 6\.3MB in .* but only [\d.]+MB are free there"):
        bring(small_disk / "here")
    assert fake.sent("/large/") == []
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up(fake: FakeHub, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.add(REPO, {"model.safetensors": WEIGHTS * 3})
    monkeypatch.setattr(hub, "check_space", lambda *_: (small_disk / "other").write_bytes(WEIGHTS))
    with pytest.raises(UserError, match="cannot write .*model.safetensors: the disk is full"):
        bring(small_disk / "here")
    assert not (small_disk / "here/model.safetensors").exists()


def test_two_processes_fetch_a_file_once(fake: FakeHub, tmp_path: Path) -> None:
    threads = [threading.Thread(target=bring, args=(tmp_path / "here",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert contents(tmp_path / "here") == FILES
    assert len(fake.sent("/large/")) == 1


def test_progress_is_plain_lines_in_a_log(fake: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bring(tmp_path / "here")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("fetching tester/tiny-d2  2098/2098 kB  100%")
    assert "MB/s" in last


# ---------------------------------------------------------------- uploading


def folder_of(files: dict[str, bytes], place: Path) -> Path:
    for path, content in files.items():
        (place / path).parent.mkdir(parents=True, exist_ok=True)
        (place / path).write_bytes(content)
    return place


def test_what_is_uploaded_can_be_fetched(fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", fakehub.TOKEN)
    files = {"model_000007.pt": WEIGHTS, "meta_000007.json": b"{}", "tokenizer/tokenizer.json": b"[]"}
    address = hub.upload("tester/new", folder_of(files, tmp_path / "ours"), private=True)
    assert address == f"{fake.url}/tester/new"
    assert fake.repos["tester/new"].private
    assert contents(bring(tmp_path / "back", "tester/new")) == files
    fake.asked.clear()
    (tmp_path / "ours/meta_000007.json").write_bytes(b"[]")
    hub.upload("tester/new", tmp_path / "ours")
    assert [each.path for each in fake.asked if each.method == "PUT"] == []
    assert fake.repos["tester/new"].files["meta_000007.json"] == b"[]"


def test_an_upload_resumes_after_a_busy_hub(fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", fakehub.TOKEN)
    fake.fail("/commit/", status=503)
    fake.fail("/repos/create", status=429, headers={"Retry-After": "0"})
    hub.upload("tester/new", folder_of({"model.pt": WEIGHTS}, tmp_path / "ours"))
    assert fake.repos["tester/new"].files["model.pt"] == WEIGHTS
    assert len([each for each in fake.asked if each.method == "PUT"]) == 1


def test_uploads_that_are_refused(fake: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = folder_of({"model.pt": b"weights"}, tmp_path / "ours")
    with pytest.raises(UserError, match="uploading needs a token with write permission; make one"):
        hub.upload("tester/new", ours)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="answers 401 for tester/new .* the token does not suffice"):
        hub.upload("tester/new", ours)
    monkeypatch.setenv("HF_TOKEN", fakehub.TOKEN)
    with pytest.raises(UserError, match="answers 403 for other/new .* the token does not suffice"):
        hub.upload("other/new", ours)
    fake.fail("/upload/", status=400, times=9)
    with pytest.raises(UserError, match="the upload to tester/new broke off .* run it again"):
        hub.upload("tester/new", ours)
    with pytest.raises(UserError, match="tester/tiny-d2 already exists and is public"):
        hub.upload(REPO, ours, private=True)
    assert set(fake.repos) == {REPO, "tester/new"}
    assert "model.pt" not in fake.repos["tester/new"].files | fake.repos[REPO].files


# ---------------------------------------------------------------- other processes


def program(code: str, fake: FakeHub, home: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **fakehub.environment(fake, home), **variables}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)


def test_the_environment_is_honoured(fake: FakeHub, tmp_path: Path) -> None:
    code = f"from nanochat import hub; print(hub.fetch({REPO!r}))"
    done = program(code, fake, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).is_relative_to(tmp_path / "home")
    fake.vanish()
    assert program(code, fake, tmp_path / "home", HF_HUB_OFFLINE="1").returncode == 0
    assert "HF_HUB_OFFLINE is set" in program(code, fake, tmp_path / "elsewhere", HF_HUB_OFFLINE="1").stderr


def test_a_killed_run_resumes(fake: FakeHub, tmp_path: Path) -> None:
    fake.fail("/large/", cut=1_500_000)
    fake.fail("resolve.*safetensors", skip=1, status=429, headers={"Retry-After": "200"})
    process = multiprocessing.get_context("fork").Process(target=bring, args=(tmp_path / "here",))
    process.start()
    partial = tmp_path / PARTIAL
    while not (partial.exists() and partial.stat().st_size > 1_000_000):
        process.join(0.05)
    process.kill()
    process.join()
    fake.faults.clear()
    assert contents(bring(tmp_path / "here")) == FILES
    assert fake.sent("/large/")[-1].range is not None
