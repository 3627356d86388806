"""scripts/inference_server.py as a user starts it: the contract of servers of nanoGPT models, line by line."""

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
import torch

from nanochat.api import Model
from nanochat.checkpoint import door
from nanochat.engine import serving
from nanochat.errors import UserError
from nanochat.web.state import named
from scripts import inference_server
from tests.gpt2s import write_gpt2, write_nanogpt
from tests.served import PATIENCE, Live, get, post, refusal, served, started

CONTEXT = 32
LETTERS = "\n !abcdefgh"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 in transformers' format."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_gpt2(folder, CONTEXT)
    return folder


@pytest.fixture(scope="module")
def gpt2(folder: Path) -> Iterator[Live]:
    """The GPT-2 behind the app in this process."""
    with served([serving.serve_model(door.find(str(folder)), "cpu", "float32", slots=4)], plain=True) as live:
        yield live


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, torch.nn.Module]]:
    """nanoGPT's character model behind the app, and transformers' model of the same weights."""
    folder = tmp_path_factory.mktemp("letters")
    theirs = write_nanogpt(folder, LETTERS, CONTEXT)
    with served([serving.serve_model(door.find(str(folder)), "cpu", "float32", slots=4)]) as live:
        yield live, theirs


def message(response: httpx.Response, status: int = 400) -> str:
    return refusal(response, status)["message"]


def test_the_contract_with_a_key(folder: Path) -> None:
    flags = [f"--init_from={folder}", "--compile"]
    with started("inference_server", *flags, NANOGPT_API_KEY="s3cret") as (process, address, said), httpx.Client(
        base_url=address, timeout=60
    ) as client:
        assert "Anybody" not in said and "ssh -L" not in said and said.count("--compile") == 1
        state = client.get("/").json()  # needs no key
        assert state == {"status": "ok", "model": folder.name, "device": "cpu", "dtype": "float32"}
        page = client.get("/", headers={"Accept": "text/html,*/*"})
        assert page.headers["content-type"].startswith("text/html") and "<html" in page.text
        body = {"prompt": "hello", "max_tokens": 5}
        assert "API key" in message(client.post("/generate", json=body), 401)
        assert "wrong" in message(client.post("/generate", json=body, headers={"Authorization": "Bearer no"}), 401)
        client.headers["Authorization"] = "Bearer s3cret"
        answer = client.post("/generate", json=body)
        assert answer.status_code == 200 and set(answer.json()) == {"text"}
        assert client.get("/v1/models").json()["data"][0]["id"] == folder.name
        with ThreadPoolExecutor(12) as pool:
            greedy = {**body, "temperature": 0}
            answers = list(pool.map(lambda _: client.post("/generate", json=greedy), range(12)))
        assert len({answer.text for answer in answers}) == 1 and answers[0].status_code == 200
        listening = Path(f"/proc/{process.pid}/net/tcp")
        port = int(str(client.base_url.port))
        if listening.exists():  # with a key it listens on all addresses
            assert f"00000000:{port:04X}" in listening.read_text(encoding="utf-8")
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0 and "Traceback" not in err


def test_without_a_key_only_this_machine_is_let_in(tmp_path: Path) -> None:
    write_nanogpt(tmp_path / "out", LETTERS, CONTEXT)
    with started("inference_server", f"--out_dir={tmp_path / 'out'}") as (process, address, said):
        assert "only this machine" in said and "--host" in said and address.startswith("http://127.0.0.1:")
        assert get(address).json()["model"] == "resume"
        answer = post(f"{address}/generate", json={"prompt": "abc"})
        assert set(answer.json()["text"]) <= set(LETTERS)
        assert "rebinding" in message(get(address, headers={"Host": "rebinding.example"}), 403)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 0


def test_generate_gives_the_continuation_without_prompt_and_space(gpt2: Live, folder: Path) -> None:
    model = Model("tiny", serving.serve_model(door.find(str(folder)), "cpu", "float32", slots=1))
    for prompt in ("hello the cat", "é", " ", ""):
        body = {"prompt": prompt, "max_tokens": 12, "temperature": 0}
        text = model.generate(prompt, max_tokens=12, temperature=0)
        assert gpt2.post("/generate", body).json() == {"text": text.strip()}


def test_generate_has_the_contracts_defaults(gpt2: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    pool, requests = gpt2.state.default.pool, []
    submit = pool.submit
    monkeypatch.setattr(pool, "submit", lambda job: (requests.extend(job.requests), submit(job)))
    gpt2.post("/generate", {"prompt": "a", "top_k": None})
    (asked,) = requests
    assert (asked.max_tokens, asked.temperature, asked.top_k, asked.seed) == (256, 0.8, 200, None)
    assert asked.prompt == gpt2.state.default.tokenizer.encode("a")  # nothing stands before it


def test_a_reply_outgrows_the_context_as_nanogpts_do(letters: tuple[Live, torch.nn.Module]) -> None:
    live, theirs = letters
    ids = [LETTERS.index(character) for character in "abc"]
    with torch.no_grad():
        for _ in range(2 * CONTEXT):
            ids.append(int(theirs(torch.tensor([ids[-CONTEXT:]])).logits[0, -1].argmax()))
    body = {"prompt": "abc", "max_tokens": 2 * CONTEXT, "temperature": 0}
    expected = "".join(LETTERS[id] for id in ids[3:])
    assert live.post("/generate", body).json() == {"text": expected.strip()}


@pytest.mark.parametrize(
    "body, said",
    [
        ({}, "prompt is missing"), ({"prompt": None}, "prompt is missing"), ({"prompt": 5}, "prompt"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens"), ({"prompt": "a", "max_tokens": 4097}, "max_tokens"),
        ({"prompt": "a", "max_tokens": 1.5}, "max_tokens"), ({"prompt": "a", "temperature": -1}, "temperature"),
        ({"prompt": "a", "temperature": "hot"}, "temperature"), ({"prompt": "a", "top_k": -1}, "top_k"),
        ({"prompt": "a", "max_new_tokens": 5}, "'max_new_tokens' is an unknown field; known are model, prompt, "),
        ({"prompt": "a", "topk": 1}, "'topk' is"), ({"prompt": "a", "n": 2}, "seed, stop, num_samples, stream"),
        ({"prompt": "a", "stop": ""}, "stop"), ({"prompt": "a", "num_samples": 0}, "num_samples"),
        ([], "JSON object"), (b"{", "not JSON"), (b"\xff", "UTF-8"),
    ],
)  # fmt: skip
def test_bad_input_is_refused(gpt2: Live, body: object, said: str) -> None:
    assert said in message(gpt2.post("/generate", body))


def test_a_character_that_the_model_does_not_know_is_named(letters: tuple[Live, torch.nn.Module]) -> None:
    live, _ = letters
    for path in ("/generate", "/v1/completions"):
        assert "'é'" in message(live.post(path, {"prompt": "abé", "max_tokens": 2}))
    assert "'é'" in message(live.post("/v1/completions", {"prompt": ["a", "é"], "max_tokens": 2}))
    assert "'é'" in message(live.post("/tokenize", {"text": "é"}))
    assert "does not chat" not in live.get("/health").text and live.get("/health").json()["ready"]


def test_a_character_model_has_the_whole_api_but_for_chats_and_formats(letters: tuple[Live, torch.nn.Module]) -> None:
    live, _ = letters
    assert live.post("/tokenize", {"text": "abc"}).json() == {"tokens": [3, 4, 5], "count": 3, "texts": [*"abc"]}
    assert live.post("/detokenize", {"tokens": [3, 4, 5]}).json() == {"text": "abc"}
    body = {"prompt": "abc", "max_tokens": 4, "echo": True, "logprobs": 2, "seed": 1}
    choice = live.post("/v1/completions", body).json()["choices"][0]
    assert choice["text"].startswith("abc") and choice["finish_reason"] == "length"
    told = choice["logprobs"]
    assert "".join(told["tokens"]) == choice["text"] and told["token_logprobs"][0] is None
    assert told["token_logprobs"][1] < 0 and told["text_offset"] == list(range(7))
    empty = live.post("/v1/completions", {"prompt": "", "max_tokens": 3, "echo": True, "logprobs": 0}).json()
    assert len(empty["choices"][0]["logprobs"]["tokens"]) == 3 and empty["usage"]["prompt_tokens"] == 1
    form = {"prompt": "abc", "response_format": {"type": "json_object"}}
    assert "no token that ends a text" in message(live.post("/v1/completions", form))
    chat = {"messages": [{"role": "user", "content": "abc"}]}
    assert "has not learned to chat" in message(live.post("/v1/chat/completions", chat))


def test_a_gpt2_begins_texts_with_nothing_and_holds_to_formats(gpt2: Live) -> None:
    body = {"prompt": "hello", "max_tokens": 3, "echo": True, "logprobs": 1}
    choice = gpt2.post("/v1/completions", body).json()["choices"][0]
    assert choice["logprobs"]["tokens"][0] == "he" and choice["logprobs"]["token_logprobs"][0] is None
    schema = {"type": "object", "properties": {"n": {"type": "integer", "maximum": 9, "minimum": 0}},
              "required": ["n"], "additionalProperties": False}  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    said = gpt2.post("/v1/completions", {"prompt": "hello", "max_tokens": 25, "response_format": form}).json()
    assert json.loads(said["choices"][0]["text"])["n"] in range(10)


@pytest.mark.parametrize(
    "flags, said",
    [
        (["--init_from=no/such/place"], "there is no model"), (["--port=70000"], "--port is 70000"),
        (["--api_key="], "--api_key"), (["--host=no.such.host.invalid"], "--host"), (["--slots=-1"], "slots"),
        (["--temperature=3"], "--temperature is 3.0; expected 0 to 2"), (["--max_new_tokens=0"], "1 to 4096"),
        (["--top_k=-1"], "0 or more"), (["--top_p=2"], "0 to 1"),
        (["--dtype=int4"], "int4"), (["--device=tpu"], "tpu"), (["--out_dir=nowhere"], "nowhere"),
        (["--init_form=gpt2"], "did you mean --init_from"),
    ],
)  # fmt: skip
def test_flags_that_make_no_sense_are_refused(flags: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        inference_server.main(["--port=0", "--device=cpu", *flags])


# ---------------------------------------------------------------- names


def test_gpt_server_model_name(folder: Path, tmp_path: Path) -> None:
    """What nanoLLM_gpt's guide types: its config file, and model="gpt" by OpenAI's client."""
    config = tmp_path / "server_config.yaml"
    config.write_text(f"host: 127.0.0.1\nmodel_type: {folder}\n", encoding="utf-8")
    with started("inference_server", str(config)) as (_, address, printed):
        assert "lines of User: and Assistant:" in printed
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="not-needed", max_retries=0)
        for name in ("gpt", "", "dummy", "tgi", "gpt-4o", str(folder), folder.name):
            text = client.completions.create(model=name, prompt="hello", max_tokens=2)
            assert text.model == folder.name
        messages: list = [{"role": "system", "content": "You help."}, {"role": "user", "content": "he"}]
        assert client.chat.completions.create(model="gpt", messages=messages, max_tokens=3).model == folder.name
        chunks = client.chat.completions.create(model="gpt", messages=messages, max_tokens=3, stream=True)
        assert {chunk.model for chunk in chunks} == {folder.name}
        assert client.models.retrieve("gpt").id == folder.name
        for path in ("/", "/health", "/stats", "/metrics", "/v1/models", "/models", "/openapi.json", "/v1/models/x"):
            assert str(folder) not in get(address + path).text
        long = post(f"{address}/v1/completions", json={"prompt": "x" * 99, "model": str(folder)}).text
        assert "context" in long and str(folder) not in long


def test_default_generation_of_a_config_file(folder: Path, tmp_path: Path) -> None:
    """The section of nanoLLM_gpt's server_config.yaml."""
    config = tmp_path / "server_config.yaml"
    section = "  max_new_tokens: 3\n  temperature: 0.0\n  top_k: 40\n  top_p: 0.9\n"
    others = "cors_enabled: true\ndebug: false\nmax_batch_size: 8\n"
    config.write_text(f"model_type: {folder}\n{others}default_generation:\n{section}", encoding="utf-8")
    with started("inference_server", str(config)) as (_, address, _):
        defaults = get(f"{address}/v1/models").json()["data"][0]["defaults"]
        asked = ("max_tokens", "temperature", "top_k", "top_p")
        assert [defaults[name] for name in asked] == [3, 0.0, 40, 0.9]
        page = {"Origin": "https://example.com"}
        assert get(f"{address}/health", headers=page).headers["access-control-allow-origin"] == "*"
        texts = {post(f"{address}/generate", json={"prompt": "he"}).json()["text"] for _ in range(4)}
        greedy = {"prompt": "he", "temperature": 0, "max_tokens": 3}
        assert texts == {post(f"{address}/generate", json=greedy).json()["text"]}


def test_served_names(folder: Path) -> None:
    names = ["--served_name=gpt", "--served-name", "my/model"]
    with started("inference_server", f"--init_from={folder}", *names, "--chat_template=none") as (_, address, printed):
        assert printed.startswith("gpt: ") and "does not chat" in printed
        assert [card["id"] for card in get(f"{address}/v1/models").json()["data"]] == ["gpt"]
        assert get(address).json()["model"] == "gpt"
        assert get(f"{address}/v1/models/my/model").json()["id"] == "gpt"
        chat = {"messages": [{"role": "user", "content": "he"}]}
        assert "has not learned to chat" in message(post(f"{address}/v1/chat/completions", json=chat))


@pytest.mark.parametrize(
    "ids, names, public",
    [
        (["sft:d4"], [], [("sft:d4", [])]), (["sft:d4"], ["a"], [("a", [])]), (["sft:d4"], ["a", "b"], [("a", ["b"])]),
        (["sft:d4", "base:d4"], [], [("sft:d4", []), ("base:d4", [])]),
        (["out", "out"], ["a", "b"], [("a", []), ("b", [])]),
    ],
)  # fmt: skip
def test_the_names_of_models(ids: list[str], names: list[str], public: list) -> None:
    assert [(id, list(aliases)) for id, aliases in named(ids, names)] == public


@pytest.mark.parametrize(
    "ids, names, said",
    [
        (["out", "out"], [], "two models are called out; --served_name"), (["a", "b"], ["c", "c"], "are called c"),
        (["a", "b"], ["c"], "given 1 times for 2 models"), (["a"], [""], "--served_name is empty"),
    ],
)  # fmt: skip
def test_names_that_are_unclear_are_refused(ids: list[str], names: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        named(ids, names)


@pytest.mark.parametrize(
    "argv, source, port",
    [([], "gpt2", 8080), (["--out_dir=o"], "resume", 8080), (["--model-type", "x", "--out-dir=o"], "x", 8080)],
)
def test_gpt_server_has_nanollm_gpts_defaults(
    argv: list[str], source: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[inference_server.Flags] = []
    monkeypatch.setattr(inference_server, "serve", served.append)
    inference_server.gpt_server(argv)
    assert (served[0].source, served[0].port) == (source, port)
