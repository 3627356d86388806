"""Many clients: who leaves frees a slot, who comes too late hears when to come again, and nothing breaks them all."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator

import httpx
import pytest
import torch

from nanochat import chat
from nanochat.engine.engine import Engine
from nanochat.tokenizer import Tokenizer
from nanochat.web import sse
from nanochat.web.state import Settings
from tests.scripted import scripted
from tests.served import Live, loaded, served, wait

CHAT = "/v1/chat/completions"
ENDLESS = {"messages": [{"role": "user", "content": "Go on."}], "temperature": 0, "max_tokens": 4000}
SHORT = {**ENDLESS, "max_tokens": 3}


def rambling(tokenizer: Tokenizer, slots: int, context: int = 4096) -> Engine:
    """Says xyxyxy... for ever, and 4096 tokens are for ever."""
    x, y = tokenizer.encode("x")[0], tokenizer.encode("y")[0]
    return Engine(scripted(tokenizer, [[tokenizer.special(chat.ASSISTANT_START), x, y, x]], context), slots=slots)


@pytest.fixture
def live(tokenizer: Tokenizer) -> Iterator[Live]:
    """One model, two slots, two more requests may wait."""
    with served([loaded(rambling(tokenizer, 2), tokenizer)], settings=Settings(max_queue=2)) as live:
        yield live


class Client:
    """A client that reads the beginning of a reply and can go away in the middle."""

    def __init__(self, live: Live, body: dict, *headers: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", live.port), timeout=60)
        text = json.dumps(body).encode()
        lines = [f"POST {CHAT} HTTP/1.1", "Host: localhost", f"Content-Length: {len(text)}", *headers, "", ""]
        self.socket.sendall("\r\n".join(lines).encode() + text)
        self.said = b""

    def read_until(self, words: bytes) -> bytes:
        while words not in self.said:
            more = self.socket.recv(65536)
            assert more, self.said
            self.said += more
        return self.said

    def leave(self) -> None:
        self.socket.close()


def busy(live: Live) -> int:
    return sum(engine.slots - engine.free_slots for engine in live.engines)


# ---------------------------------------------------------------- leaving


@pytest.mark.parametrize("body", [{"stream": True}, {"stream": True, "n": 2}, {}])
def test_who_leaves_frees_the_slots(live: Live, body: dict) -> None:
    client = Client(live, {**ENDLESS, **body})
    wait(lambda: busy(live) == body.get("n", 1))
    client.leave()
    live.wait_until_idle()
    assert live.engines[0].stats.generated_tokens < 4000


def test_who_leaves_while_waiting_never_gets_a_slot(live: Live) -> None:
    talking = [Client(live, {**ENDLESS, "stream": True}) for _ in range(2)]
    wait(lambda: busy(live) == 2)
    waiting = [Client(live, {**ENDLESS, "stream": stream}) for stream in (True, False)]
    wait(lambda: live.state.default.pool.waiting == 2)
    for client in waiting:
        client.leave()
    wait(lambda: live.state.default.pool.waiting == 0)
    assert busy(live) == 2
    for client in talking:
        client.leave()
    live.wait_until_idle()


def test_a_hundred_clients_that_vanish_leave_nothing_behind(live: Live) -> None:
    for number in range(100):
        client = Client(live, {**ENDLESS, "stream": number % 3 > 0})
        if number % 2:
            wait(lambda: busy(live) > 0)
        client.leave()
        if number % 4 == 3:
            live.wait_until_idle()
    wait(lambda: not live.state._open)
    assert live.post(CHAT, SHORT).status_code == 200


def test_what_one_client_reads_is_its_own(tokenizer: Tokenizer) -> None:
    with served([loaded(rambling(tokenizer, 8), tokenizer)]) as live:

        async def ask(client: httpx.AsyncClient, number: int) -> None:
            body = {"prompt": "xy"[number % 2], "temperature": 0, "max_tokens": 5 + number, "stream": True}
            said = ""
            async with client.stream("POST", "/v1/completions", json=body) as response:
                async for line in response.aiter_lines():
                    if line.startswith("data: {"):
                        said += json.loads(line[6:])["choices"][0]["text"]
            assert said == ("yx" * 99 if number % 2 == 0 else "xy" * 99)[: 5 + number]

        async def all_of_them() -> None:
            limits = httpx.Limits(max_connections=64)
            async with httpx.AsyncClient(base_url=live.url, timeout=120, limits=limits) as client:
                await asyncio.gather(*(ask(client, number) for number in range(64)))

        asyncio.run(all_of_them())
        live.wait_until_idle()


# ---------------------------------------------------------------- the queue


def test_a_full_queue_is_said_and_when_to_come_again(live: Live) -> None:
    clients = [Client(live, {**ENDLESS, "stream": True}) for _ in range(4)]
    wait(lambda: busy(live) == 2 and live.state.default.pool.waiting == 2)
    refused = live.post(CHAT, SHORT)
    assert refused.status_code == 429 and refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    for client in clients:
        client.leave()
    live.wait_until_idle()
    assert live.post(CHAT, SHORT).status_code == 200
    never = live.post(CHAT, {**SHORT, "n": 5})
    assert never.status_code == 400 and never.json()["error"]["param"] == "n"
    assert live.post(CHAT, {**SHORT, "n": 4}).status_code == 200


def test_who_waits_is_told_that_the_server_is_there(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "KEEP_ALIVE", 0.05)
    talking = [Client(live, {**ENDLESS, "stream": True}) for _ in range(2)]
    wait(lambda: busy(live) == 2)
    waiting = Client(live, {**SHORT, "stream": True})
    waiting.read_until(b": waiting\n\n")
    talking[0].leave()
    waiting.read_until(b"[DONE]")
    talking[1].leave()


def test_two_engines_share_one_queue(tokenizer: Tokenizer) -> None:
    pair = [loaded(rambling(tokenizer, 1), tokenizer) for _ in range(2)]
    with served(pair) as live:
        first = Client(live, {**ENDLESS, "stream": True})
        wait(lambda: busy(live) == 1)
        second = Client(live, {**ENDLESS, "stream": True})
        wait(lambda: [engine.free_slots for engine in live.engines] == [0, 0])
        third = Client(live, {**SHORT, "stream": True})
        wait(lambda: live.state.default.pool.waiting == 1)
        health = {"status": "ok", "ready": True, "models": ["sft:d1"], "num_gpus": 2, "available_workers": 0}
        assert live.get("/health").json() == health
        second.leave()
        third.read_until(b"[DONE]")
        first.leave()
        live.wait_until_idle()


def test_a_conversation_returns_to_the_engine_that_holds_it_unless_that_is_much_busier(tokenizer: Tokenizer) -> None:
    turns = [{"role": "user", "content": "Tell me all about it, from the beginning to the end, and leave nothing out."}]

    def cached(turns: list[dict]) -> tuple[int, list[int]]:
        """A turn's cached tokens, and how many tokens each engine has been asked to read for it."""
        before = [engine.stats.prompt_tokens for engine in live.engines]
        usage = live.post(CHAT, {**SHORT, "messages": turns}).json()["usage"]
        live_now = [engine.stats.prompt_tokens for engine in live.engines]
        return usage["prompt_tokens_details"]["cached_tokens"], [a - b for a, b in zip(live_now, before, strict=True)]

    with served([loaded(rambling(tokenizer, 4), tokenizer) for _ in range(2)]) as live:
        other = Client(live, {**ENDLESS, "stream": True})  # takes a slot of the first engine
        wait(lambda: busy(live) == 1)
        none, read = cached(turns)
        assert none == 0 and read[0] == 0 and read[1] > 16
        other.leave()
        live.wait_until_idle()
        turns += [{"role": "assistant", "content": "xyx"}, {"role": "user", "content": "Go on."}]
        known, again = cached(turns)
        assert known >= read[1] - 1 and again[0] == 0 < again[1]
        crowd = [Client(live, {**ENDLESS, "messages": turns, "stream": True}) for _ in range(3)]
        wait(lambda: [engine.free_slots for engine in live.engines] == [4, 1])
        known, elsewhere = cached(turns)
        assert known == 0 and elsewhere[1] == 0 < elsewhere[0]
        for client in crowd:
            client.leave()
        live.wait_until_idle()


# ---------------------------------------------------------------- when something breaks


def test_a_step_that_fails_ends_its_requests_only(live: Live) -> None:
    engine = live.engines[0]
    talking = Client(live, {**ENDLESS, "stream": True})
    whole = Client(live, ENDLESS)
    wait(lambda: busy(live) == 2)
    later = Client(live, SHORT)
    wait(lambda: live.state.default.pool.waiting == 1)
    kept, engine.cache.k = engine.cache.k, torch.empty(0)  # the next forward pass cannot but fail
    said = talking.read_until(b"[DONE]")
    assert b'"code":"internal_error"' in said
    assert b" 500 " in whole.read_until(b"}}") and b'"type":"server_error"' in whole.said
    later.read_until(b"}}")
    engine.cache.k = kept
    live.wait_until_idle()
    assert live.post(CHAT, SHORT).json()["choices"][0]["message"]["content"] == "xyx"
    assert live.get("/health").json()["ready"]
    live.wait_until_idle()
    before = live.engines[0].stats.steps
    time.sleep(0.2)
    assert live.engines[0].stats.steps == before  # without work the engine's thread sleeps


# ---------------------------------------------------------------- streams that survive


def resumable(live: Live, **body) -> tuple[Client, str]:
    client = Client(live, {**ENDLESS, "stream": True, **body}, "X-Nanochat-Resumable: 1")
    head = client.read_until(b"\r\n\r\n").decode().split("\r\n")
    return client, next(line.split(": ")[1] for line in head if line.lower().startswith("x-stream-id:"))


def numbered(text: str) -> dict[int, str]:
    """The events of a stream by their numbers."""
    blocks = [block.split("\n") for block in text.split("\n\n") if block.startswith("id: ")]
    return {int(block[0].removeprefix("id: ")): block[1].removeprefix("data: ") for block in blocks}


def test_a_stream_can_be_read_again_from_any_event(live: Live) -> None:
    client, id = resumable(live, max_tokens=30)
    client.read_until(b"id: 5\n")
    client.leave()
    rest = numbered(live.get(f"/v1/streams/{id}?after=4").text)
    whole = numbered(live.get(f"/v1/streams/{id}").text)
    assert list(whole) == list(range(len(whole))) and list(whole.values())[-1] == "[DONE]"
    assert rest == {number: data for number, data in whole.items() if number > 4}
    said = "".join(json.loads(data)["choices"][0]["delta"].get("content", "") for data in list(whole.values())[:-1])
    assert said == "xy" * 15
    last = live.get(f"/v1/streams/{id}", headers={"Last-Event-ID": str(len(whole) - 2)})
    assert numbered(last.text) == {len(whole) - 1: "[DONE]"}
    assert numbered(live.get(f"/v1/streams/{id}?after=99999").text) == {}
    assert live.get(f"/v1/streams/{id}?after=x").status_code == 400


def test_a_stream_without_a_reader_goes_on_for_a_while_only(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "WAIT_FOR_READER", 0.5)
    client, id = resumable(live)
    client.read_until(b"id: 3\n")
    client.leave()
    assert busy(live) == 1
    live.wait_until_idle()
    wait(lambda: live.get(f"/v1/streams/{id}").status_code == 404)


def test_a_stream_can_be_stopped(live: Live) -> None:
    client, id = resumable(live)
    client.read_until(b"id: 3\n")
    assert live.client.delete(f"/v1/streams/{id}").status_code == 200
    said = client.read_until(b"[DONE]").decode()
    assert '"finish_reason":"stop"' in said
    live.wait_until_idle()
    assert live.client.delete(f"/v1/streams/{id}").status_code == 200  # it has ended already
    assert live.client.delete("/v1/streams/unknown").status_code == 404


def test_a_stream_that_waits_can_be_stopped(live: Live) -> None:
    talking = [Client(live, {**ENDLESS, "stream": True}) for _ in range(2)]
    wait(lambda: busy(live) == 2)
    client, id = resumable(live)
    assert live.client.delete(f"/v1/streams/{id}").status_code == 200
    client.read_until(b"[DONE]")
    for each in talking:
        each.leave()


# ---------------------------------------------------------------- the end


def test_a_server_that_ends_finishes_what_runs_and_refuses_what_is_new(tokenizer: Tokenizer) -> None:
    with served([loaded(rambling(tokenizer, 2, 600), tokenizer)], drain_seconds=60) as live:
        client = Client(live, {**ENDLESS, "stream": True, "max_tokens": 300})
        client.read_until(b'"content":"x"')
        live.server.handle_exit(15, None)
        refused = live.post(CHAT, SHORT)
        assert refused.status_code == 503 and refused.json()["error"]["code"] == "shutting_down"
        assert int(refused.headers["retry-after"]) > 0
        assert live.get("/health").status_code == 503 and live.get("/v1/models").status_code == 200
        said = client.read_until(b"[DONE]").decode()
        assert said.count('"content":"y"') == 150 and '"finish_reason":"length"' in said
        wait(lambda: not live.state.default.pool.healthy)  # its worker has ended


def test_what_does_not_end_in_time_is_ended(tokenizer: Tokenizer) -> None:
    with served([loaded(rambling(tokenizer, 2, 100_000), tokenizer)], drain_seconds=0) as live:
        talking = Client(live, {**ENDLESS, "stream": True, "max_tokens": 100_000})
        whole = Client(live, {**ENDLESS, "max_tokens": 100_000})
        wait(lambda: busy(live) == 2)
        live.server.handle_exit(15, None)
        assert b"shutting down" in talking.read_until(b"[DONE]")
        assert b" 500 " in whole.read_until(b"}}")
