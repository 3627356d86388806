"""What a model computes for a text: the attention of a head, and what each layer would predict; for the page too.

The model reads the text once more, between two steps of its Engine.
"""

from fastapi import APIRouter
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from torch import Tensor

from nanochat import chat
from nanochat.engine.engine import Engine
from nanochat.engine.request import ContextLengthError, Request
from nanochat.inspection import Glance, glance
from nanochat.tokenizer import Tokenizer
from nanochat.web.bodies.schemas import InspectRequest, validated
from nanochat.web.documentation import describes
from nanochat.web.errors import bad_request, json_response
from nanochat.web.replies import chat_ids, encoded
from nanochat.web.state import ServedModel, ServerState


def routes(state: ServerState) -> APIRouter:
    router = APIRouter()

    @router.post("/inspect", tags=["Inside"], summary="Attention and logit lens", **describes(InspectRequest))
    async def inspect(http: HttpRequest) -> Response:
        body = validated(InspectRequest, await http.body())
        model = state.pick(body.model)
        config = model.pool.workers[0].engine.model.config
        layer = config.n_layer - 1 if body.layer is None else body.layer
        for name, value, count in (("layer", layer, config.n_layer), ("head", body.head, config.n_head)):
            if value is not None and value >= count:
                raise bad_request(f"{name} is {value}; this model has {count}, numbered from 0", name, "invalid_value")
        ids = await _ids(state, model, body)
        try:
            seen = await model.pool.call(lambda engine: _look(engine, ids, layer, body))
        except ContextLengthError as error:
            where = "text" if body.messages is None else "messages"
            raise bad_request(str(error), where, "context_length_exceeded") from None
        about = {"model": model.id, "layers": config.n_layer, "heads": config.n_head, "layer": layer, "head": body.head}
        return json_response(about | _shown(model.tokenizer, ids, seen, body.head))

    return router


async def _ids(state: ServerState, model: ServedModel, body: InspectRequest) -> list[int]:
    if (body.text is None) == (body.messages is None):
        raise bad_request("give either text or messages", "text")
    if body.messages is not None:
        return await chat_ids(state, model, body.messages)
    assert body.text is not None
    state.log("inspect", model, body.text)
    return await encoded("text", len(body.text), chat.text_prompt, model.tokenizer, body.text)


def _look(engine: Engine, ids: list[int], layer: int, body: InspectRequest) -> Glance:
    engine.check(Request(ids))
    return glance(engine.model, ids, layer, min(body.last, len(ids)), body.top)


def _shown(tokenizer: Tokenizer, ids: list[int], seen: Glance, head: int | None) -> dict:
    """The N last tokens; what each gives to each of them, and to all earlier ones; each layer's predictions."""
    shares = seen.weights.mean(0) if head is None else seen.weights[head]  # (N, T)
    first = len(ids) - len(shares)
    return {
        "tokens": [tokenizer.decode([id]) for id in ids[first:]],
        "ids": ids[first:],
        "earlier_tokens": first,
        "attention": _rounded(shares[:, first:]),
        "attention_to_earlier": _rounded(shares[:, :first].sum(-1)),
        "logit_lens": [
            [[{"text": tokenizer.decode([id]), "probability": probability}
              for id, probability in zip(*each, strict=True)] for each in zip(*layer, strict=True)]
            for layer in zip(seen.ids.tolist(), _rounded(seen.probabilities), strict=True)
        ],
    }  # fmt: skip


def _rounded(values: Tensor) -> list:
    return values.double().round(decimals=4).tolist()
