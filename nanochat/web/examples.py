"""Requests and replies for /docs and /openapi.json. Replies are cut to what most clients read."""

from typing import Any

_HELLO = [{"role": "user", "content": "What is 12 * 7?"}]
_USAGE = {"prompt_tokens": 15, "completion_tokens": 20, "total_tokens": 35}
_CHAT = {
    "id": "chatcmpl-6726d315c0b4c2ec823bdbbd", "object": "chat.completion", "created": 1796103184, "model": "sft:d4",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "It is 84."}, "finish_reason": "stop"}],
    "usage": _USAGE,
}  # fmt: skip

# route: (body, reply); None for a route without a body
EXAMPLES: dict[str, tuple[dict[str, Any] | None, dict[str, Any]]] = {
    "/v1/models": (
        None,
        {"object": "list", "data": [
            {"id": "sft:d4", "object": "model", "context_length": 512, "display_name": "d4 · SFT, step 1,400",
             "about": "d4 knows the little world: its people, towns and animals, sums, spelling and stories.",
             "examples": [{"task": "followup", "questions": ["Where does Mira live?", "And what is her job?"]}],
             "trained": {"parent": "base:d4", "conversations": "littleworld"}},
        ]},
    ),
    "/v1/chat/completions": ({"messages": _HELLO, "temperature": 0}, _CHAT),
    "/v1/completions": (
        {"prompt": "Once upon a time", "max_tokens": 4},
        {"id": "cmpl-a180bf9e42bb198c1876c116", "object": "text_completion", "created": 1796103185, "model": "sft:d4",
         "choices": [{"index": 0, "text": " there was a fox", "logprobs": None, "finish_reason": "length"}],
         "usage": {"prompt_tokens": 5, "completion_tokens": 4, "total_tokens": 9}},
    ),
    "/v1/responses": (
        {"input": "What is 12 * 7?"},
        {"id": "resp_1f465b1f144aea0d2c51b11f", "object": "response", "status": "completed", "model": "sft:d4",
         "output": [{"type": "message", "role": "assistant",
                     "content": [{"type": "output_text", "text": "It is 84.", "annotations": []}]}],
         "usage": {"input_tokens": 15, "output_tokens": 20, "total_tokens": 35}},
    ),
    "/tokenize": ({"text": "Hello!"}, {"tokens": [15496, 0], "count": 2, "texts": ["Hello", "!"]}),
    "/detokenize": ({"tokens": [72, 105]}, {"text": "Hi"}),
    "/inspect": (
        {"text": "Once upon a time", "head": 0, "last": 1, "top": 1},
        {"model": "sft:d4", "layers": 4, "heads": 4, "layer": 3, "head": 0, "tokens": [" time"], "ids": [640],
         "earlier_tokens": 4, "attention": [[0.31]], "attention_to_earlier": [0.69],
         "logit_lens": [[[{"text": ",", "probability": 0.72}]]]},
    ),
    "/chat/completions": ({"messages": _HELLO}, _CHAT),
    "/generate": ({"prompt": "Once upon a time", "max_tokens": 4}, {"text": "there was a fox"}),
    "/health": (None, {"status": "ok", "ready": True, "models": ["sft:d4"], "num_gpus": 1, "available_workers": 1}),
    "/training": (
        None,
        {"model": "sft:d4", "loss": [[1, 2.31], [2, 2.28]], "reward": [], "val_bpb": [[1400, 0.12]]},
    ),
    "/stats": (None, {"total_workers": 1, "available_workers": 1, "busy_workers": 0}),
}  # fmt: skip
