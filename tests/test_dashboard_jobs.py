"""Jobs: real processes that outlive the server that started them, one at a time on a device; and who may start them."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from starlette.types import ASGIApp

from extras.dashboard import jobs as jobs_module
from extras.dashboard import processes, record
from extras.dashboard.app import dashboard
from extras.dashboard.flags import Places
from extras.dashboard.forms import Command
from extras.dashboard.jobs import Jobs, NotNow
from extras.dashboard.training import Outlook
from nanochat import paths
from nanochat.data.shards import write_shards
from nanochat.engine.engine import Engine
from nanochat.paths import dataset_dir, tokenizer_dir
from nanochat.tokenizer import Tokenizer
from nanochat.web import shell
from nanochat.web.app import build_app
from nanochat.web.http.flags import allowed_hosts
from nanochat.web.server import Server, listen
from nanochat.web.service import Service, Settings
from nanochat.web.state import ServedModel, ServerState
from scripts import _dashboard
from tests.conftest import TEXT
from tests.served import PATIENCE, loaded, random_model, refusal, started

KEY = "a key"
TINY = {
    "device_type": "cpu", "dtype": "float32", "compile": False, "device_batch_size": 2, "total_batch_size": 128,
    "depth": 1, "aspect_ratio": 32, "head_dim": 32, "max_seq_len": 32, "dataset": ["tiny"], "eval_tokens": 128,
    "eval_every": -1, "sample_every": -1,
}  # fmt: skip


def eventually(condition: Callable[[], Any]) -> Any:
    """What a condition gives as soon as it holds."""
    deadline = time.monotonic() + 4 * PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline, "it never came to pass"
        time.sleep(0.05)
    return found


# ---------------------------------------------------------------- processes


def sleeper(*first: str) -> list[str]:
    """Words after `python -m` that run statements and then sleep."""
    return ["timeit", "-n", "1", "-r", "1", "\n".join(["import time", *first, "time.sleep(600)"])]


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path)
    yield made
    for job in made.all():
        if job.pid is not None and job.start is not None:
            processes.send(job.pid, job.start, signal.SIGKILL, group=True)
    for job in made.all():
        eventually(lambda place=made.folder / job.id: not record.is_alive(place))


def submit(jobs: Jobs, argv: list[str], device: str = "cpu") -> record.Job:
    return jobs.submit("base_train", argv, {}, device, None)


def running(jobs: Jobs, id: str) -> record.Job:
    def look() -> record.Job | None:
        jobs.advance()
        job = jobs.get(id)
        return job if job.state == "running" else None

    return eventually(look)


def over(jobs: Jobs, id: str) -> record.Job:
    def look() -> record.Job | None:
        jobs.advance()
        job = jobs.get(id)
        return job if job.state not in record.OPEN else None

    return eventually(look)


def test_a_job_runs_in_its_own_session_and_ends_with_its_exit_code_and_last_line(jobs: Jobs) -> None:
    good = submit(jobs, ["timeit", "-n", "1", "-r", "1", "print('one\\ntwo')"])
    bad = submit(jobs, ["timeit", "1 / 0"])
    assert jobs.get(bad.id).state == "queued" and jobs.queue()["cpu"][-1] == bad.id  # one at a time on a device
    ended = over(jobs, good.id)
    assert (ended.state, ended.exit) == ("finished", 0) and "loop" in str(ended.message)
    printed = jobs.log(good.id, 1000)
    assert printed.startswith("$ python -m timeit -n 1 -r 1") and "one\ntwo\n" in printed
    ended = over(jobs, bad.id)
    assert (ended.state, ended.exit, ended.message) == ("failed", 1, "ZeroDivisionError: division by zero")
    asleep = running(jobs, submit(jobs, sleeper()).id)
    elsewhere = running(jobs, submit(jobs, sleeper(), "cuda:1").id)
    assert asleep.pid and os.getsid(asleep.pid) == asleep.pid != os.getsid(0)
    for job in (asleep, elsewhere):
        assert jobs.stop(job.id).state == "stopping"
        assert over(jobs, job.id).state == "stopped"
    with pytest.raises(NotNow):
        jobs.stop(asleep.id)
    paths.write_text(jobs.folder / elsewhere.id / record.RECORD, "{")
    assert len(jobs.all()) == 3  # one that was damaged does not hide the others
    jobs.forget(asleep.id)
    assert asleep.id not in os.listdir(jobs.folder) and len(jobs.all()) == 2


def test_a_second_stop_kills_what_does_not_end_with_all_its_children(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubborn = sleeper(
        "import signal, subprocess, sys", "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid, 'ready', flush=True)",
    )  # fmt: skip
    id = submit(jobs, stubborn).id
    child = int(eventually(lambda: re.search(r"^(\d+) ready$", jobs.log(id, 5), re.M))[1])
    jobs.stop(id)
    with pytest.raises(NotNow, match="saving"):
        jobs.stop(id)
    assert jobs.get(id).state == "stopping" and processes.start_of(child) is not None
    monkeypatch.setattr(jobs_module, "BEFORE_KILL", 0.0)
    jobs.stop(id)
    ended = over(jobs, id)
    assert (ended.state, ended.exit) == ("stopped", -signal.SIGKILL) and "killed" in str(ended.message)
    eventually(lambda: processes.start_of(child) is None)


def test_a_job_is_started_once_whoever_starts_it_and_whenever_the_server_dies(jobs: Jobs, tmp_path: Path) -> None:
    """Killed before the runner was there, a server leaves a record; killed after, a runner. Both may meet."""
    folder = jobs.folder / "20250101-000000-abcdef"
    record.write(folder, record.Job(folder.name, "base_train", sleeper(), {}, "cpu", None, time.time()))
    servers = [Jobs(tmp_path) for _ in range(3)]
    for server in servers:
        server._start(server.get(folder.name))  # without the look whether it was started already
    job = running(jobs, folder.name)

    def alive() -> list[int]:
        return [each.pid for server in servers for each in server._runners.values() if each.poll() is None]

    eventually(lambda: len(alive()) == 1)
    for server in servers:
        server.advance()
    assert len(alive()) == 1
    assert jobs.get(folder.name).pid == job.pid and jobs.log(folder.name, 100).count("$ python") == 1


def test_without_its_runner_a_job_is_still_found_stopped_and_closed(jobs: Jobs) -> None:
    job = running(jobs, submit(jobs, sleeper()).id)
    (runner,) = jobs._runners.values()
    runner.kill()
    runner.wait()
    waiting = submit(jobs, ["timeit", "-n", "1", "1"])
    again = Jobs(jobs.folder.parent)
    again.advance()
    assert again.get(job.id).state == "running" and again.get(waiting.id).state == "queued"  # it has the device still
    again.stop(job.id)
    ended = over(again, job.id)
    assert ended.state == "stopped" and ended.exit is None and "nothing saw how" in str(ended.message)
    assert over(again, waiting.id).state == "finished"


def test_a_pid_that_was_used_again_is_never_signalled(jobs: Jobs) -> None:
    """Neither when nothing of the job lives, nor when its lock is held and only the pid is another's."""
    innocent = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        folder = jobs.folder / "20250101-000000-abcdef"
        start = processes.start_of(innocent.pid)
        assert start and processes.start_of(innocent.pid) == start != processes.start_of(os.getpid())
        old = record.Job(folder.name, "base_train", sleeper(), {}, "cpu", None, 1.0, "running", pid=innocent.pid,
                         start=f"{start}0", started=1.0)  # fmt: skip
        record.write(folder, old)
        held = record.locked(folder / record.ALIVE)
        assert held is not None and jobs.stop(folder.name).state == "stopping"
        with record.editing(folder) as job:
            job.stopped_at = 0.0
        jobs.stop(folder.name)  # the kill
        assert processes.send(innocent.pid, f"{start}0", signal.SIGKILL, group=True) is False
        assert innocent.poll() is None
        os.close(held)
        record.write(folder, old)
        jobs.advance()
        assert jobs.get(folder.name).state == "failed" and innocent.poll() is None
        assert processes.send(innocent.pid, start, signal.SIGKILL) and innocent.wait() == -signal.SIGKILL
        assert processes.start_of(innocent.pid) is None
    finally:
        innocent.kill()


def test_without_proc_ps_tells_when_a_process_started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(processes, "BOOT_ID", tmp_path / "none")
    mine = processes.start_of(os.getpid())
    assert mine and mine == processes.start_of(os.getpid()) and time.strptime(mine)
    assert processes.start_of(2**22 + 1) is None


# ---------------------------------------------------------------- the whole way, with a server that is killed


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, tokenizer: Tokenizer) -> Path:
    """A base folder with a tokenizer and a dataset."""
    folder = tmp_path_factory.mktemp("world") / "base"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOCHAT_BASE_DIR", str(folder))
        tokenizer.save(tokenizer_dir())
        write_shards((f"{n} cats. {TEXT[n % 50 : 150 + n]}" for n in range(60)), dataset_dir("tiny"))
    return folder


def job_of(client: httpx.Client, id: str) -> dict:
    return client.get(f"/dashboard/jobs/{id}").json()


def start(client: httpx.Client, **values: Any) -> dict:
    answer = client.post("/dashboard/jobs", json={"stage": "base_train", "values": {**TINY, **values}})
    assert answer.status_code == 201, answer.text
    return answer.json()


def test_training_survives_a_server_that_is_killed_and_is_stopped_and_resumed(world: Path) -> None:
    environment = {"NANOCHAT_BASE_DIR": str(world)}
    with started("dashboard", "--allow_training", **environment) as (server, url, _):
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            long = start(client, num_iterations=1_000_000, model_tag="long")
            short = start(client, num_iterations=2, model_tag="short")
            assert long["run"] == "base:long" and long["device"] == "cpu"
            odd = client.post("/dashboard/jobs", json={"stage": "base_train", "values": {**TINY, "head_dim": 7}})
            assert refusal_with_errors(odd)["param"] == "head_dim"  # what only the model's shape tells
            missing = client.post("/dashboard/jobs", json={"stage": "chat_sft", "values": {"source": "base:none"}})
            assert "no base checkpoint" in refusal_with_errors(missing)["message"]
            metrics = world / "base_checkpoints" / "long" / "metrics.jsonl"
            eventually(lambda: metrics.exists() and b'"loss"' in metrics.read_bytes())
            pid = job_of(client, long["id"])["pid"]
            listed = client.get("/dashboard/jobs").json()
            assert listed["queue"] == {"cpu": [short["id"]]}
        server.send_signal(signal.SIGKILL)
        server.wait()
    size = metrics.stat().st_size
    with contextlib.ExitStack() as stack:
        _, url, _ = stack.enter_context(started("dashboard", "--allow_training", **environment))
        with httpx.Client(base_url=url, timeout=PATIENCE) as client:
            found = job_of(client, long["id"])
            assert (found["state"], found["pid"]) == ("running", pid)
            eventually(lambda: metrics.stat().st_size > size)
            stopping = client.post(f"/dashboard/jobs/{long['id']}/stop").json()
            assert stopping["state"] == "stopping"
            eventually(lambda: job_of(client, long["id"])["state"] == "stopped")
            ended = job_of(client, long["id"])
            assert ended["exit"] == 143 and re.search(r"step \d+ is saved", ended["message"])
            saved = sorted(metrics.parent.glob("meta_*.json"))
            assert len(saved) == 1
            eventually(lambda: job_of(client, short["id"])["state"] == "finished")  # it was next
            assert (world / "base_checkpoints" / "short" / "meta_000002.json").exists()
            client.post(f"/dashboard/jobs/{long['id']}/resume")
            resumed = f"resuming from step {int(saved[0].stem[5:])}"
            eventually(lambda: resumed in client.get(f"/dashboard/jobs/{long['id']}/log").json()["text"])
            assert job_of(client, long["id"])["attempt"] == 2
            client.post(f"/dashboard/jobs/{long['id']}/stop")
            eventually(lambda: job_of(client, long["id"])["state"] == "stopped")


# ---------------------------------------------------------------- who may start what


@contextlib.contextmanager
def reached(app: ASGIApp, service: Service) -> Iterator[httpx.Client]:
    """A server in a thread."""
    with listen("127.0.0.1", 0) as bound:
        server = Server(app, service, 1.0)
        thread = threading.Thread(target=server.run, args=([bound],))
        thread.start()
        try:
            eventually(lambda: server.started)
            url = f"http://127.0.0.1:{bound.getsockname()[1]}"
            with httpx.Client(base_url=url, timeout=PATIENCE) as client:
                yield client
        finally:
            server.should_exit = True
            thread.join()


def part_of(places: Places, chat: bool = False) -> shell.Part:
    outlook = Outlook(lambda command: None, run_of, _dashboard._conversations, _dashboard._documents)
    return dashboard(places, _dashboard.STAGES, outlook, 1 << 20, chat)


@contextlib.contextmanager
def served(places: Places, **chosen: Any) -> Iterator[httpx.Client]:
    """A dashboard alone."""
    service = Service(Settings(hosts=allowed_hosts("127.0.0.1"), **chosen))
    with reached(shell.build(service, [part_of(places)]), service) as client:
        yield client


def run_of(command: Command) -> str | None:
    return None


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "base", (tmp_path / "base" / "out",), (), training=True)


@pytest.fixture
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Jobs, "_start", lambda self, job: None)


CHANGES = [
    ("POST", "/dashboard/jobs"), ("POST", "/dashboard/jobs/20250101-000000-abcdef/stop"),
    ("POST", "/dashboard/jobs/20250101-000000-abcdef/resume"), ("DELETE", "/dashboard/jobs/20250101-000000-abcdef"),
    ("POST", "/dashboard/files?name=a.txt"), ("GET", "/dashboard/jobs"), ("GET", "/dashboard/files"),
    ("GET", "/dashboard/jobs/20250101-000000-abcdef/log"),
]  # fmt: skip
GOOD = {"stage": "base_train", "values": TINY}


def test_training_is_off_unless_it_was_allowed(places: Places) -> None:
    with served(Places(places.base, places.out_dirs, ())) as client:
        for method, path in CHANGES:
            assert "--allow_training" in refusal(client.request(method, path, json=GOOD), 403)["message"]
        assert client.get("/dashboard/state").json()["training"] is False
        assert client.post("/dashboard/check", json=GOOD).json()["errors"] == {}  # a form may still be looked at
        assert not places.base.exists()


def test_a_key_an_origin_and_a_host_are_asked_for(places: Places, nothing_starts: None) -> None:
    with served(places, api_key=KEY) as client:
        for method, path in [*CHANGES, ("GET", "/dashboard/state"), ("GET", "/dashboard/forms")]:
            assert client.request(method, path, json=GOOD).status_code == 401
        bearer = {"Authorization": f"Bearer {KEY}"}
        for method, path in CHANGES[:5]:
            foreign = {**bearer, "Origin": "https://evil.example"}
            assert refusal(client.request(method, path, json=GOOD, headers=foreign), 403)["code"] == "origin"
        rebound = client.get("/dashboard/jobs", headers={**bearer, "Host": "evil.example"})
        assert rebound.status_code == 403 and not places.base.exists()
        assert client.post("/dashboard/jobs", json=GOOD, headers=bearer).status_code == 201


def test_only_stages_with_flags_that_they_take_are_started(places: Places, nothing_starts: None) -> None:
    with served(places) as client:
        for body, param in (
            ({"stage": "os", "values": {}}, None),
            ({"stage": "base_train", "values": {"depth": 0.5}}, "depth"),
            ({"stage": "base_train", "values": {"dataset": ["a", "--dtype=float32"]}}, "dataset"),
            ({"stage": "chat_sft", "values": {"data_path": ["/etc/passwd"]}}, "data_path"),
            ({"stage": "train", "values": {"out_dir": "../../x"}}, "out_dir"),
        ):
            answer = client.post("/dashboard/jobs", json=body)
            assert refusal_with_errors(answer)["param"] == param
        for body in (b"[]", b"{", b'{"stage": "base_train", "values": []}', b"\xff", b'{"values": {}}'):
            assert client.post("/dashboard/jobs", content=body).status_code == 400
        assert not (places.base / "jobs").exists()
        assert client.post("/dashboard/jobs", json=GOOD).status_code == 201


def refusal_with_errors(answer: httpx.Response) -> dict:
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert error.pop("errors") and set(error) == {"message", "type", "param", "code"}
    return error


def test_the_chat_and_the_dashboard_share_a_server(places: Places, tokenizer: Tokenizer) -> None:
    model = ServedModel("sft:d1", [loaded(Engine(random_model(tokenizer, 32), slots=1), tokenizer)])
    state = ServerState([model], Settings(api_key=KEY))
    html = {"Accept": "text/html"}
    with reached(build_app(state, [part_of(places, chat=True)]), state) as client:
        for path in ("/", "/runs", "/train", "/models", "/docs"):
            page = client.get(path, headers=html)
            navigation = page.text.partition('<nav class="pages"')[2].partition("</nav>")[0]
            links = re.findall(r"<a [^>]*>(\w+)</a>", navigation)
            assert page.status_code == 200 and links == ["Chat", "Runs", "Train", "Models", "API"]
        assert client.get("/dashboard/static/main.js").status_code == 200
        for path in ("/dashboard/state", "/v1/models", "/models"):
            assert client.get(path).status_code == 401
        bearer = {"Authorization": f"Bearer {KEY}"}
        assert client.get("/models", headers=bearer).json()["data"][0]["id"] == "sft:d1"  # as for OpenAI's clients
        assert client.get("/dashboard/state", headers=bearer).json()["chat"] is True
        assert "/v1" in client.get("/docs").text
    with served(places) as client:
        assert client.get("/", headers=html).text == client.get("/runs").text and "Chat</a>" not in client.get("/").text
        assert "/v1" not in client.get("/docs").text and client.get("/v1/models").status_code == 404


@pytest.mark.parametrize("path", [
    "/dashboard/jobs/..%2F..%2Fetc/log", "/dashboard/jobs/%00", "/dashboard/jobs/.cpu.lock", "/dashboard/jobs/x/stop",
    "/dashboard/jobs/20250101-000000-abcdef%0a",
])  # fmt: skip
def test_there_is_no_job_of_another_name(places: Places, path: str) -> None:
    with served(places) as client:
        method = "POST" if path.endswith("stop") else "GET"
        assert client.request(method, path).status_code == 404


def test_uploads_are_read_named_and_kept_apart(places: Places) -> None:
    talk = json.dumps({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]})
    with served(places) as client:
        def upload(name: str, body: Any) -> httpx.Response:
            return client.post("/dashboard/files", params={"name": name}, content=body)

        first = upload("../../talk one.jsonl", f"{talk}\n{talk}\n".encode()).json()
        assert first == {"path": "talk-one.jsonl", "bytes": 2 * len(talk) + 2, "kind": "conversations", "count": 2,
                         "problem": None}  # fmt: skip
        assert upload("talk one.jsonl", talk.encode()).json()["path"] == "talk-one-2.jsonl"
        assert upload("lines.jsonl", b'{"text": "a"}\n{"text": "b"}\n').json()["kind"] == "text"
        assert upload("\u00e9.txt", TEXT.encode()).json()["kind"] == "text"
        for name, body, sentence in (
            ("bad.jsonl", f"{talk}\n{{".encode(), "bad.jsonl:2: not JSON"), ("x.txt", b"a\xff\xfe", "UTF-8"),
            ("empty.txt", b"", "empty"), ("a.exe", b"MZ", "ends in"), ("..", b"x", "name"), ("", b"x", "name"),
            ("a\0.txt", b"x\0", ""), ("big.txt", b"x" * (1 << 20) + b"y", "exceeds"),
            ("bomb.txt.gz", b"\x1f\x8b\x08", ""),
        ):  # fmt: skip
            answer = upload(name, body)
            assert answer.status_code == (413 if name == "big.txt" else 400) and sentence in answer.text, name
            assert str(places.base) not in answer.text

        def in_pieces() -> Iterator[bytes]:  # nothing tells its length beforehand
            for _ in range(3):
                yield b"x" * (1 << 19)

        assert upload("pieces.txt", in_pieces()).status_code == 413
        names = ["lines.jsonl", "talk-one-2.jsonl", "talk-one.jsonl", "\u00e9.txt"]
        assert [each["path"] for each in client.get("/dashboard/files").json()["files"]] == names
        assert sorted(os.listdir(places.uploads)) == names  # nothing is left of the others
        made = client.post("/dashboard/check", json={"stage": "chat_sft", "values": {"data_path": ["talk-one.jsonl"]}})
        assert f"--data_path={places.uploads.resolve()}/talk-one.jsonl" in made.json()["command"]


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9)
KEYS = st.sampled_from(["stage", "values", "depth", "dataset", "resume", "data_path"]) | st.text(max_size=3)
ANYTHING = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4))


@settings(max_examples=40, suppress_health_check=list(HealthCheck), database=None)
@given(ANYTHING, st.sampled_from(["base_train", "chat_sft", "train", "add_data"]))
def test_random_forms_are_answered(anybody: httpx.Client, values: Any, stage: str) -> None:
    for body in (values, {"stage": stage, "values": values}):
        for path in ("/dashboard/check", "/dashboard/jobs"):
            content = json.dumps(body).encode()
            assert anybody.post(path, content=content).status_code in (200, 201, 400, 409), content


def test_nothing_that_schemathesis_thinks_of_breaks_the_dashboard(anybody: httpx.Client) -> None:
    api = schemathesis.openapi.from_dict(anybody.get("/openapi.json").json())
    operations = [found.ok() for found in api.get_all_operations()]
    statuses = Counter[int]()
    assert len(operations) >= 12
    for operation in operations:
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

            @settings(max_examples=3, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None)
            @given(operation.as_strategy(generation_mode=mode))
            def attempt(case: schemathesis.Case) -> None:
                answer = case.call(base_url=str(anybody.base_url))
                assert answer.status_code < 500 and answer.status_code != 422, (case.as_curl_command(), answer.text)
                statuses[answer.status_code] += 1

            with contextlib.suppress(Unsatisfiable):  # where nothing can be wrong
                attempt()
    assert statuses[200] > 5 and statuses[400] + statuses[404] > 10


@pytest.fixture(scope="module")
def anybody(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A dashboard on which anything may be tried; no process is started."""
    base = tmp_path_factory.mktemp("anybody") / "base"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Jobs, "_start", lambda self, job: None)
        with served(Places(base, (base / "out",), (), training=True)) as client:
            yield client
