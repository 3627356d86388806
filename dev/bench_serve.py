"""What many people at once get from the chat server: time to first token, tokens/s, and what leavers leave behind.

    python dev/bench_serve.py                        a model of depth 4 with random weights, made for the purpose
    python dev/bench_serve.py --source sft           the best chat model of the base folder
    python dev/bench_serve.py --quick                fewer tokens, rounds and clients, in about a minute

The real server runs in a process of its own and is asked over HTTP, as by so many browsers. A second one with a single
slot answers one request at a time. Both are measured by turns, in rounds; rates are the median of the rounds, so that
the ratios bear other work on the machine. So is one stream beside the Engine itself, which runs here, without a server.
Then: how long the shortest requests take on a kept connection, and what memory an idle one takes. Decoding is greedy.
Stop tokens and tool calls are ruled out by logit_bias, so that every reply has the same number of tokens; every prompt
is another one, so that the prefix cache has nothing to give.
"""

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a file, it finds the packages beside it

import torch
from rich.console import Console
from rich.table import Table

from nanochat import chat, scaling
from nanochat.checkpoint import door, manager
from nanochat.config import parse
from nanochat.engine.request import Request
from nanochat.engine.serving import serve_model
from nanochat.errors import UserError, run
from nanochat.gpt import GPT
from nanochat.paths import checkpoints_dir, tokenizer_dir
from nanochat.runtime import pick_device
from nanochat.tokenizer import Tokenizer
from tasks.littleworld.documents import documents

ROOT = Path(__file__).resolve().parent.parent
WORDS = """able bread cold door early field green house iron joke kind lamp milk night ocean paper quiet river stone
under voice water yellow zebra apple bridge candle dance engine flower garden hammer island jacket kitchen letter table
needle orange pencil question rabbit summer ticket uncle village window yesterday market zero""".split()
FAIR, SPEEDUP = 3.0, 4.0  # asked of the worst first token over the median at 64 streams, and of 16 streams over one
SINGLE = 16  # streams at most that the server of one slot is asked for in every round; it needs long for more
WAVE = 100  # leavers at a time
SHARE, IDLE_KB = 0.8, 100.0  # asked of one stream over the Engine itself, and of a connection that nobody uses
IDLE = 400  # such connections; servers often may open 1024 files


@dataclass
class Flags:
    """Measure the chat server; the last line is JSON."""

    source: str = ""
    """base, mid, sft or rl: a checkpoint of the base folder; default: a small model with random weights"""
    model_tag: str | None = None
    """which model of the stage"""
    streams: list[int] = field(default_factory=lambda: [1, 4, 16, 64])
    """how many streams at once"""
    tokens: int = 64
    """tokens of a reply"""
    words: int = 24
    """words of a prompt"""
    rounds: int = 5
    """measurements of each number of streams"""
    leavers: int = 1000
    """clients that leave in the middle of a reply, or before it begins"""
    slots: int = 0
    """of the server; 0: its own choice"""
    dtype: str = "auto"
    """what the model computes in"""
    device_type: str = ""
    """cuda, mps or cpu; default: the best there is"""
    one_at_a_time: bool = True
    """compare with a server of one slot"""
    quick: bool = False
    """32 tokens, 3 rounds, 300 leavers"""


@dataclass
class Server:
    """A running chat server."""

    pid: int
    port: int
    model: dict
    """what /v1/models says of it"""
    ruled_out: list[int]
    """ids of special tokens"""

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as reply:
            return json.load(reply)

    def load(self) -> tuple[int, int, int]:
        """Slots in all, busy ones, and requests that wait for one."""
        (model,) = self.get("/stats")["models"].values()
        return model["slots"], model["busy_slots"], model["waiting"]

    def megabytes(self) -> float:
        """Resident memory."""
        kilobytes = subprocess.run(["ps", "-o", "rss=", "-p", str(self.pid)], capture_output=True, check=True).stdout
        return int(kilobytes) / 1024


@dataclass
class Round:
    """What so many streams at once got in one round. Times in seconds."""

    rate: float
    """tokens per second of all together"""
    first: list[float]
    """from each request to its first token"""
    pause: float
    """the longest that any stream stood still after its first token"""
    client: float
    """CPU seconds of this script a second"""


@dataclass
class Figures:
    """Several rounds together. Times in seconds."""

    streams: int
    tok_per_second: float
    slowest_round: float
    first_median: float
    first_p95: float
    first_worst: float
    fairness: float
    """in the worst round, the worst first token over the median"""
    pause_worst: float
    client: float


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    if flags.quick:
        flags.tokens, flags.rounds, flags.leavers = 32, 3, 300
    load = os.getloadavg()[0]
    with model_folder(flags) as name, contextlib.ExitStack() as stack:
        server = stack.enter_context(serve(flags, flags.slots))
        single = stack.enter_context(serve(flags, 1)) if flags.one_at_a_time else None
        about = {"model": name, "dtype": server.model["dtype"], "device": server.model["device"],
                 "parameters": server.model["parameters"], "cores": os.cpu_count(), "slots": server.load()[0],
                 "tokens": flags.tokens, "load_before": load}  # fmt: skip
        print(", ".join(f"{key} {value}" for key, value in about.items()))
        many, one = asyncio.run(measure(flags, server, single))
        alone = beside_the_engine(flags, server)
        kept = asyncio.run(keep(server, flags))
        left = asyncio.run(leave(server, flags))
    found = {**summary(many, one), **alone, **kept}
    Console().print(table(many, one))
    print("first: until the first token, pause: the longest between two, both in ms; client: this script's CPU")
    print("\n".join(sentences(found, left)))
    rows = {"streams": [asdict(row) for row in many], "one_at_a_time": [asdict(row) for row in one]}
    print(json.dumps({**about, **rows, **found, "leavers": left}))


async def measure(flags: Flags, server: Server, single: Server | None) -> tuple[list[Figures], list[Figures]]:
    """Every number of streams in every round, at the server and at the one with a single slot."""
    rng = random.Random(0)
    many: dict[int, list[Round]] = {n: [] for n in flags.streams}
    one: dict[int, list[Round]] = {n: [] for n in flags.streams if single is not None}
    for number in range(-1, flags.rounds):  # round -1 is the warm-up
        for n in flags.streams if number >= 0 else flags.streams[:2]:
            many[n].append(await burst(server, n, flags, rng))
            if single is not None and (n <= SINGLE or number == 0 and not flags.quick):
                one[n].append(await burst(single, n, flags, rng))
        if number < 0:
            for rounds in [*many.values(), *one.values()]:
                rounds.clear()
    return [figures(n, rounds) for n, rounds in many.items()], [figures(n, rows) for n, rows in one.items() if rows]


def figures(streams: int, rounds: list[Round]) -> Figures:
    first = sorted(seconds for round in rounds for seconds in round.first)
    return Figures(
        streams=streams,
        tok_per_second=statistics.median(round.rate for round in rounds),
        slowest_round=min(round.rate for round in rounds),
        first_median=statistics.median(first),
        first_p95=first[int(0.95 * (len(first) - 1))],
        first_worst=first[-1],
        fairness=max(max(round.first) / statistics.median(round.first) for round in rounds),
        pause_worst=max(round.pause for round in rounds),
        client=statistics.median(round.client for round in rounds),
    )


def beside_the_engine(flags: Flags, server: Server) -> dict[str, float]:
    """Tokens per second of one stream, by turns over HTTP and by an Engine in this process, and the median of the
    ratios. Only decoding counts: from the first token to the last."""
    found = door.find(f"{flags.source}:{flags.model_tag}")
    serving = serve_model(found, flags.device_type or pick_device("", 0), flags.dtype, server.load()[0])
    rng = random.Random(2)

    def own(text: str) -> list[float]:
        ids = chat.prompt(serving.tokenizer, [{"role": "user", "content": text}])
        bias = dict.fromkeys(server.ruled_out, -100.0)
        request = Request(ids, max_tokens=flags.tokens, temperature=0, logit_bias=bias)
        return [time.perf_counter() for _, event in serving.engine.stream([request]) if event.token is not None]

    def rate(times: list[float]) -> float:
        return (flags.tokens - 1) / (times[-1] - times[0])

    pairs = []
    with ThreadPoolExecutor(1) as thread:  # torch's threads behave differently in a process's first one; the server's
        for number in range(-1, 4 * flags.rounds):  # Engine has one of its own as well
            http = rate(asyncio.run(ask(server, prompt(flags, rng), flags.tokens)).times)
            itself = rate(thread.submit(own, prompt(flags, rng)).result())
            if number >= 0:
                pairs.append((http, itself))
    shares = sorted(http / itself for http, itself in pairs)
    return {
        "http_tok_per_second": statistics.median(http for http, _ in pairs),
        "engine_tok_per_second": statistics.median(itself for _, itself in pairs),
        "share": statistics.median(shares), "share_best": max(http for http, _ in pairs) / max(own for _, own in pairs),
    }  # fmt: skip


# ---------------------------------------------------------------- the server


@contextlib.contextmanager
def model_folder(flags: Flags) -> Iterator[str]:
    """See that there is a model to serve; says which one. A random one lives in a base folder of its own, meanwhile."""
    if flags.source:
        _, tag, step = manager.find(flags.source, flags.model_tag)
        flags.model_tag = tag
        yield f"{flags.source} {tag}, step {step}"
        return
    before = os.environ.get("NANOCHAT_BASE_DIR")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NANOCHAT_BASE_DIR"] = folder
        try:
            save_random_model()
            flags.source, flags.model_tag = "sft", "d4"
            yield "depth 4, random"
        finally:
            del os.environ["NANOCHAT_BASE_DIR"]
            if before is not None:
                os.environ["NANOCHAT_BASE_DIR"] = before


def save_random_model() -> None:
    """Write a chat model of depth 4 with random weights, and its tokenizer, to the base folder."""
    torch.manual_seed(0)
    tokenizer = Tokenizer.train(documents("train", count=3000), 4096, chat.SPECIALS)
    model = GPT(scaling.config_from_depth(4, tokenizer.vocab_size, 256))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    tokenizer.save(tokenizer_dir())
    manager.save(checkpoints_dir("sft") / "d4", 0, model, {}, {"tokenizer_hash": tokenizer.hash})


@contextlib.contextmanager
def serve(flags: Flags, slots: int) -> Iterator[Server]:
    """The chat server in a process of its own. Raises UserError with its last words if it does not come up."""
    command = [sys.executable, "-m", "scripts.chat_web", "--port", "0", "--source", flags.source]
    command += ["--model_tag", str(flags.model_tag), "--slots", str(slots), "--dtype", flags.dtype]
    command += ["--device_type", flags.device_type] if flags.device_type else []
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as complaints:
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=complaints, text=True)
        assert process.stdout is not None
        try:
            port = None
            for line in process.stdout:
                if match := re.search(r"http://[\w.]+:(\d+)", line):
                    port = int(match[1])
                    break
            if port is None:
                complaints.seek(0)
                last = (complaints.read().strip().splitlines() or ["it said nothing"])[-1]
                raise UserError(f"the server did not start: {last}")
            specials = Tokenizer.load(tokenizer_dir()).specials.values()
            server = Server(process.pid, port, {}, list(specials))
            while not server.model:
                try:
                    server.model = server.get("/v1/models")["data"][0]
                except OSError:  # it does not listen yet
                    time.sleep(0.1)
                    if process.poll() is not None:
                        raise
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
            process.stdout.close()


# ---------------------------------------------------------------- the clients


@dataclass
class Reply:
    """When things happened, in seconds since the request."""

    times: list[float]
    """of every piece of text"""
    tokens: int


async def burst(server: Server, streams: int, flags: Flags, rng: random.Random) -> Round:
    """Ask for so many streams at the same moment. Raises UserError unless all replies are whole."""
    together = [streams] if streams > 1 else [1, 1, 1, 1]  # one stream alone, but several times
    replies: list[Reply] = []
    began, cpu = time.perf_counter(), time.process_time()
    for count in together:
        replies += await asyncio.gather(*(ask(server, prompt(flags, rng), flags.tokens) for _ in range(count)))
    seconds = time.perf_counter() - began
    short = [reply.tokens for reply in replies if reply.tokens != flags.tokens]
    if short:
        raise UserError(f"{len(short)} of {len(replies)} replies had {short[0]} tokens instead of {flags.tokens}")
    return Round(
        rate=len(replies) * flags.tokens / seconds,
        first=[reply.times[0] for reply in replies],
        pause=max(b - a for reply in replies for a, b in zip(reply.times, reply.times[1:], strict=False)),
        client=(time.process_time() - cpu) / seconds,
    )


def prompt(flags: Flags, rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=flags.words))


async def ask(server: Server, text: str, tokens: int) -> Reply:
    """One streamed reply, read to its end. Raises UserError where the server answers with anything else."""
    began = time.perf_counter()
    reader, writer = await send(server, text, tokens)
    reply = Reply([], 0)
    try:
        async for chunk in chunks(reader):
            if chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                reply.times.append(time.perf_counter() - began)
            reply.tokens = (chunk.get("usage") or {}).get("completion_tokens", reply.tokens)
    finally:
        writer.close()
    if not reply.times:
        raise UserError("the server sent a reply without text")
    return reply


async def send(server: Server, text: str, tokens: int | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Ask for a reply of so many tokens, or as many as the context holds."""
    body = {
        "messages": [{"role": "user", "content": text}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0,
        "logit_bias": dict.fromkeys(map(str, server.ruled_out), -100),
    }
    return await post(server, "/v1/chat/completions", body if tokens is None else {**body, "max_tokens": tokens})


async def post(server: Server, path: str, body: dict) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send a request. A whole HTTP client would take as much of the processor as the server's part of the work."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nConnection: close\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(f"{head}Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
    return reader, writer


async def chunks(reader: asyncio.StreamReader):
    """The chunks of a streamed reply. Raises UserError for an answer with another status than 200."""
    status = await reader.readline()
    if b" 200 " not in status:
        answer = (await reader.read()).decode("utf-8", "replace").splitlines()[-1:]
        raise UserError(f"the server answered {status.decode().strip()} {answer}")
    while line := await reader.readline():
        if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
            yield json.loads(line[6:])


async def fill(server: Server) -> None:
    """Use every slot to its end: what a cache takes of memory shows only when it is written."""

    async def read(seed: int) -> None:
        ids = random.Random(seed).choices(range(256), k=server.model["context_length"] - 1)
        reader, writer = await post(server, "/v1/completions", {"prompt": ids, "max_tokens": 1})
        status = await reader.readline()
        await reader.read()
        writer.close()
        if b" 200 " not in status:
            raise UserError(f"the server answered {status.decode().strip()} to a prompt that fills the context")

    await asyncio.gather(*(read(seed) for seed in range(server.load()[0])))


async def keep(server: Server, flags: Flags) -> dict[str, float]:
    """Kilobytes of the server's memory for each idle connection; milliseconds of /health, and of a chat of one token,
    on a kept connection."""
    health = f"GET /health HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\n\r\n".encode()
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nContent-Length: {len(content)}"
    times: dict[str, float] = {}
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for name, request in ("health_ms", health), ("one_token_ms", f"{head}\r\n\r\n".encode() + content):
        each = []
        for _ in range(20 * flags.rounds):
            began = time.perf_counter()
            await exchange(reader, writer, request)
            each.append(time.perf_counter() - began)
        times[name] = 1000 * statistics.median(each)
    writer.close()
    sizes = []
    for _ in range(2):  # the first time, the allocator takes what it then keeps
        before = server.megabytes()
        connections = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(IDLE)]
        for reader, writer in connections:
            await exchange(reader, writer, health)
        sizes.append(1024 * (server.megabytes() - before) / IDLE)
        for _, writer in connections:
            writer.close()
        await asyncio.sleep(0.5)
    return {**times, "idle_connection_kb": sizes[0], "idle_connection_again_kb": sizes[1]}


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
    """Send a request and read the whole reply, which must be 200."""
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head, re.I)
    await reader.readexactly(int(length[1]) if length else 0)
    if b" 200 " not in head.splitlines()[0]:
        raise UserError(f"the server answered {head.splitlines()[0].decode()}")


async def leave(server: Server, flags: Flags) -> dict:
    """Clients that leave: a third before the reply begins, the others after up to 8 pieces of it.

    Returns how many, how many of them heard anything, the server's busy slots and waiting requests after the last has
    left and how long until both were none (seconds), and its memory in MB after the warm-up and after every wave.
    """
    heard, memory, rng = 0, [], random.Random(1)
    waves = -(-flags.leavers // WAVE)
    await fill(server)
    for wave in range(-waves, waves):  # as many again come first: a library keeps plans for every shape it has seen
        heard_now = sum(await asyncio.gather(*(vanish(server, flags, rng) for _ in range(WAVE))))
        if wave >= -1:
            memory.append(round(server.megabytes(), 1))
        if wave >= 0:
            heard += heard_now
    began = time.perf_counter()
    _, busy, waiting = server.load()
    while any(server.load()[1:]) and time.perf_counter() - began < 30:
        await asyncio.sleep(0.005)
    _, stuck, stuck_waiting = server.load()
    return {
        "clients": WAVE * waves, "mid_stream": heard, "busy_at_once": busy, "waiting_at_once": waiting,
        "busy_slots": stuck, "waiting": stuck_waiting, "seconds_until_idle": time.perf_counter() - began,
        "megabytes": memory,
    }  # fmt: skip


async def vanish(server: Server, flags: Flags, rng: random.Random) -> bool:
    """Ask for the longest reply there is and leave it. Returns whether any of it was heard."""
    pieces, waits, politely = rng.randrange(1, 9), rng.random() * 0.1, rng.random() < 0.5
    reader, writer = await send(server, prompt(flags, rng), None)
    heard = 0
    if rng.random() < 1 / 3:
        await asyncio.sleep(waits)
    else:
        async for chunk in chunks(reader):
            heard += bool(chunk["choices"] and chunk["choices"][0]["delta"].get("content"))
            if heard == pieces:
                break
    if politely:
        writer.close()
    else:
        writer.transport.abort()
    return heard > 0


# ---------------------------------------------------------------- the report


def table(many: list[Figures], one: list[Figures]) -> Table:
    shown = Table("streams", "tok/s", "first", "p95", "worst", "worst/med", "pause", "client")
    for column in shown.columns:
        column.justify = "right"
    for sign, rows in ("", many), ("single ", one):
        for row in rows:
            times = (f"{1000 * value:.0f}" for value in (row.first_median, row.first_p95, row.first_worst))
            shown.add_row(f"{sign}{row.streams}", f"{row.tok_per_second:.0f}", *times, f"{row.fairness:.2f}",
                          f"{1000 * row.pause_worst:.0f}", f"{row.client:.0%}")  # fmt: skip
        shown.add_section()
    return shown


def summary(many: list[Figures], one: list[Figures]) -> dict:
    """The ratios, where their measurements were made."""
    by_streams = {row.streams: row for row in many}
    found: dict = {}
    if 64 in by_streams:
        found["fairness_64"] = by_streams[64].fairness
    if 1 in by_streams:
        for n in by_streams.keys() - {1}:
            found[f"speedup_{n}"] = by_streams[n].tok_per_second / by_streams[1].tok_per_second
    for row in one:
        together = by_streams[row.streams]
        found[f"over_single_{row.streams}"] = together.tok_per_second / row.tok_per_second
        found[f"first_over_single_{row.streams}"] = together.first_median / row.first_median
    return found


def sentences(found: dict, left: dict) -> list[str]:
    said = []
    if "speedup_16" in found:
        said.append(f"16 streams get {found['speedup_16']:.1f} times the tokens/s of one (asked: {SPEEDUP:g})")
    if "fairness_64" in found:
        said.append(
            f"64 streams: the worst first token takes {found['fairness_64']:.2f} of the median (asked: {FAIR:g})"
        )
    for n in (16, 64):
        if f"over_single_{n}" in found:
            said.append(
                f"{n} streams beside one request at a time: {found[f'over_single_{n}']:.1f} times the tokens/s, the "
                f"first token after {found[f'first_over_single_{n}']:.2f} of the time"
            )
    said.append(
        f"one stream gets {found['share']:.0%} of what the Engine itself makes (asked: {SHARE:.0%}), the best of each "
        f"{found['share_best']:.0%}: {found['http_tok_per_second']:.0f} and {found['engine_tok_per_second']:.0f} tok/s"
    )
    said.append(
        f"on a kept connection /health takes {found['health_ms']:.1f} ms, a chat of one token "
        f"{found['one_token_ms']:.1f} ms; an idle one takes {found['idle_connection_kb']:.0f} KB (asked: {IDLE_KB:g})"
    )
    said.append(
        f"{left['clients']} clients left, {left['mid_stream']} of them in mid-stream: {left['busy_slots']} slots busy "
        f"after {left['seconds_until_idle']:.2f} s, memory {left['megabytes'][0]} -> {left['megabytes'][-1]} MB"
    )
    return said


if __name__ == "__main__":
    run(main)
