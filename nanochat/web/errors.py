"""What goes wrong for a client, in OpenAI's envelope: {"error": {"message", "type", "param", "code"}}."""

import json
from collections.abc import Mapping

from starlette.responses import Response

TYPES = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}


class ApiError(Exception):
    """A refusal that a client can read: an HTTP status, a sentence, the field it is about and OpenAI's code."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.headers = dict(headers or {})

    @property
    def envelope(self) -> dict:
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def line(self) -> str:
        """The envelope as one line of JSON, for an event."""
        return json.dumps(self.envelope, separators=(",", ":"))

    def response(self) -> Response:
        return json_response(self.envelope, self.status, self.headers)


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, code, param)


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """JSON in ASCII: whatever a client sent, half of a surrogate pair included, can be said back."""
    body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")
    return Response(body, status, headers=dict(headers or {}), media_type="application/json")
