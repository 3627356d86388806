"""A real server on loopback that speaks chat completions and answers what a test has written down."""

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Scripted:
    """replies: texts, statuses (int), None to say nothing until the end, or bytes as a whole body; the last repeats."""

    replies: list[str | int | bytes | None]
    url: str = ""
    requests: list[dict] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)
    asked: threading.Event = field(default_factory=threading.Event)

    def said(self, number: int) -> str:
        """Everything that a request said to the model."""
        return "\n".join(message["content"] for message in self.requests[number]["messages"])


@contextlib.contextmanager
def scripted(replies: Sequence[str | int | bytes | dict | None]) -> Iterator[Scripted]:
    server = Scripted([json.dumps(reply) if isinstance(reply, dict) else reply for reply in replies])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.answer(200, json.dumps({"data": [{"id": "scripted-1"}]}).encode())

        def do_POST(self) -> None:
            server.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            server.keys.append(self.headers["Authorization"])
            reply = server.replies.pop(0) if len(server.replies) > 1 else server.replies[0]
            server.asked.set()
            if reply is None:
                server.ended.wait()
            elif isinstance(reply, int):
                self.answer(reply, json.dumps({"error": {"message": f"I say {reply}"}}).encode())
            elif isinstance(reply, bytes):
                self.answer(200, reply)
            else:
                choice = {"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}
                self.answer(200, json.dumps({"object": "chat.completion", "choices": [choice]}).encode())

        def answer(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        http.daemon_threads = True
        server.url = f"http://127.0.0.1:{http.server_port}/v1"
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.ended.set()
            http.shutdown()
            thread.join()
