"""Asking a model on any OpenAI-compatible server, with patience, and with an end to it."""

import json
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.pool import ThreadPool
from typing import Any

from nanochat.errors import UserError

PAUSES = (1.0, 4.0, 16.0)  # seconds before another try at a server that does not answer
PATIENCE = 180.0  # seconds for one answer
LONGEST_ANSWER = 4 << 20  # bytes
MAX_TOKENS = 4096  # of a reply
WITHOUT_SCHEMAS = (400, 404, 415, 422, 501)  # what servers answer to a response_format that they do not know


@dataclass
class Server:
    """An OpenAI-compatible server. Raises UserError where it cannot be used, in one sentence."""

    url: str
    model: str | None
    key: str | None
    temperature: float
    with_schema: bool = True

    def reply(self, messages: Sequence[dict], schema: dict, end: float) -> str:
        """The text of the reply to a conversation; with a JSON schema if the server has them.

        end: the time.monotonic() at which TimeoutError is raised.
        """
        if self.model is None:
            self.model = str(_pick(self.url, self._answer("models", None, end), "data", 0, "id"))
        body: dict[str, Any] = {
            "model": self.model, "messages": messages, "temperature": self.temperature, "max_tokens": MAX_TOKENS,
        }  # fmt: skip
        wanted = {"type": "json_schema", "json_schema": {"name": "proposal", "schema": schema}}
        answer = None
        if self.with_schema:
            answer = self._answer("chat/completions", {**body, "response_format": wanted}, end, WITHOUT_SCHEMAS)
            self.with_schema = answer is not None
        answer = self._answer("chat/completions", body, end) if answer is None else answer
        return str(_pick(self.url, answer, "choices", 0, "message", "content") or "")

    def _answer(self, path: str, body: dict | None, end: float, pass_over: Sequence[int] = ()) -> Any:
        """The JSON that a path answers; None for a status in `pass_over`. Tries again where that can help."""
        reason = ""
        for pause in (0.0, *PAUSES):
            if time.monotonic() + pause >= end:
                raise TimeoutError
            time.sleep(pause)
            status, text = self._send(path, body, min(PATIENCE, end - time.monotonic()))
            if status == 200:
                try:
                    return json.loads(text)
                except (ValueError, RecursionError):
                    raise UserError(f"{self.url} does not speak OpenAI's API; check --agent") from None
            if status in pass_over:
                return None
            reason = f"{status} {' '.join(text.split())[:200]}" if status else text
            if 400 <= status < 500 and status not in (408, 409, 429):
                break
        raise UserError(
            f"the agent's server {self.url} does not answer ({reason}); what was run is kept, "
            "check --agent, --agent_model and --api_key, and start the same command again to resume"
        )

    def _send(self, path: str, body: dict | None, seconds: float) -> tuple[int, str]:
        """Status and text of the answer, or 0 and the reason why there is none."""
        import httpx2

        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}

        def send() -> tuple[int, str]:
            method, url = "GET" if body is None else "POST", f"{self.url.rstrip('/')}/{path}"
            with httpx2.stream(method, url, json=body, headers=headers, timeout=seconds) as response:
                text = b""
                for block in response.iter_bytes():
                    text += block
                    if len(text) > LONGEST_ANSWER:
                        return 0, f"its answer is longer than {LONGEST_ANSWER} bytes"
                return response.status_code, text.decode("utf-8", "replace")

        try:
            with ThreadPool(1) as pool:  # an answer that comes byte by byte never runs into a timeout of httpx2
                return pool.apply_async(send).get(seconds)
        except multiprocessing.TimeoutError:
            return 0, f"nothing came in {seconds:.3g} seconds"
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError) as error:
            return 0, " ".join(str(error).split()) or type(error).__name__


def _pick(url: str, answer: Any, *keys: str | int) -> Any:
    for key in keys:
        try:
            answer = answer[key]
        except (LookupError, TypeError):
            raise UserError(f"{url} answers without {'.'.join(map(str, keys))}; check --agent") from None
    return answer
