"""Errors in OpenAI's envelope, {"error": {"message", "type", "param", "code"}}, and how JSON is written."""

import json
from collections.abc import Mapping

from starlette.responses import Response

TYPES = {429: "rate_limit_error", 500: "server_error", 503: "server_error"}

# In ASCII, so that whatever a client sent, even half of a surrogate pair, can be sent back.
to_json = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class ApiError(Exception):
    """A refusal: an HTTP status, one sentence, the field it is about and OpenAI's code."""

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.code, self.param = status, code, param
        self.headers = headers
        kind = TYPES.get(status, "invalid_request_error")
        self.envelope = {"error": {"message": message, "type": kind, "param": param, "code": code}}

    def response(self) -> Response:
        return json_response(self.envelope, self.status, self.headers)


def bad_request(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    return ApiError(400, message, code, param)


def json_response(content: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(to_json(content), status, headers=dict(headers or {}), media_type="application/json")
