"""The Engine with a real model: what a request gets is what it would get alone, uncached and unhurried."""

import itertools
import math
import threading
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import chat
from nanochat.engine.engine import Engine
from nanochat.engine.request import ContextLengthError, Request
from nanochat.engine.sampling import Row, sample
from nanochat.engine.tools import Tools, calculator_tools
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from tests.scripted import scripted

CONTEXT = 48
SIZES: dict[str, Any] = {
    "sequence_len": CONTEXT, "vocab_size": 100, "n_layer": 3, "n_head": 4, "n_kv_head": 2, "n_embd": 32,
}  # fmt: skip
CLASSIC: dict[str, Any] = {
    "window_pattern": "L", "rope_base": 10000.0, "rope_in_bfloat16": True, "qk_scale": 1.0, "lambdas": False,
    "value_embeds": False, "smear": False, "backout": False,
}  # fmt: skip
CONFIGS = {
    "modern": GPTConfig(**SIZES, short_window=8, long_window=CONTEXT, bigram_rows=331, key_offset=True),
    "classic": GPTConfig(**SIZES, **CLASSIC),
}


def random_model(config: GPTConfig) -> GPT:
    """Every parameter is drawn, also those that training starts at zero, so that every feature has an effect."""
    torch.manual_seed(1)
    model = GPT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    torch.nn.init.constant_(model.lm_head.weight[config.vocab_size :], 100.0)  # padding that begs to be sampled
    return model


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> GPT:
    return random_model(CONFIGS[request.param])


MODERN = random_model(CONFIGS["modern"])


def prompt(length: int, start: int = 1) -> list[int]:
    return [(start + 7 * i * i) % 100 for i in range(length)]


@torch.no_grad()
def naive(model: GPT, ids: list[int], n: int) -> list[int]:
    """n tokens by argmax, each from a forward pass over everything, without a cache."""
    ids = list(ids)
    for _ in range(n):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[-n:]


@pytest.mark.parametrize("length, chunk", [(1, 7), (20, 1), (20, 7), (CONTEXT - 1, 100), (CONTEXT, 7)])
def test_greedy_equals_naive_up_to_the_last_position(model: GPT, length: int, chunk: int) -> None:
    ids = prompt(length)
    reply = Engine(model, slots=1, prefill_chunk=chunk).generate([Request(ids, temperature=0)])[0]
    assert reply.tokens == naive(model, ids, CONTEXT - length + 1)
    assert reply.finish == "length"


# ---------------------------------------------------------------- neighbours

REQUESTS = st.builds(
    lambda length, start, least, **settings: Request(
        prompt(length, start), min_tokens=min(least, settings["max_tokens"]), **settings
    ),
    length=st.integers(1, CONTEXT),
    start=st.integers(0, 3),
    max_tokens=st.integers(0, 12),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    top_k=st.sampled_from([None, 0, 1, 5, 50, 1000]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    min_p=st.sampled_from([0.0, 0.0, 0.2]),
    repetition_penalty=st.sampled_from([1.0, 1.0, 1.7]),
    presence_penalty=st.sampled_from([0.0, 0.0, 1.5]),
    frequency_penalty=st.sampled_from([0.0, 0.0, -1.0]),
    logit_bias=st.sampled_from([{}, {}, {3: 8.0, 5: -100.0}]),
    seed=st.integers(-3, 3),
    least=st.sampled_from([0, 0, 3, 12]),
    stop_ids=st.sampled_from([frozenset(), frozenset(range(0, 100, 3))]),
)


@settings(max_examples=15)
@given(st.lists(REQUESTS, min_size=1, max_size=7), st.integers(1, 5), st.sampled_from([3, 16, 200]))
def test_a_request_gets_what_it_gets_alone(requests: list[Request], slots: int, chunk: int) -> None:
    together = Engine(MODERN, slots=slots, prefill_chunk=chunk).generate(requests)
    assert together == [Engine(MODERN, slots=1).generate([request])[0] for request in requests]


def test_joining_and_leaving_neighbours_change_nothing() -> None:
    watched = Request(prompt(6), temperature=1.5, seed=3, max_tokens=30)
    alone = Engine(MODERN).generate([watched])[0].tokens
    engine = Engine(MODERN, slots=3, prefill_chunk=4)
    id_ = engine.submit(watched)
    got, others = [], []
    for step in range(60):
        if step % 3 == 0:
            others.append(engine.submit(Request(prompt(4 + step % 9, step), seed=step)))
        if step % 5 == 4:
            engine.cancel(others.pop(0))
        got += [event.token for event in engine.step() if event.request_id == id_]
    assert got == alone


def test_a_long_prompt_does_not_stall_the_others() -> None:
    engine = Engine(MODERN, slots=2, prefill_chunk=8)
    quick = engine.submit(Request(prompt(3), temperature=0, max_tokens=20))
    engine.step()
    slow = engine.submit(Request(prompt(40), temperature=0, max_tokens=2))
    steps = [[event.request_id for event in engine.step()] for _ in range(6)]
    assert steps == [[quick], [quick], [quick], [quick], [slow, quick], [quick, slow]]


def test_waiting_requests_are_admitted_in_order() -> None:
    engine = Engine(MODERN, slots=2)
    ids = [engine.submit(Request(prompt(3, i), max_tokens=3)) for i in range(5)]
    finished = []
    while engine.busy:
        finished += [event.request_id for event in engine.step() if event.finish]
    assert finished == ids
    assert engine.free_slots == 2


# ---------------------------------------------------------------- samples


def test_samples_start_from_independent_draws() -> None:
    replies = Engine(MODERN, slots=16).generate(Request(prompt(4), temperature=5.0, seed=1, max_tokens=2).samples(16))
    assert len({reply.tokens[0] for reply in replies}) > 4
    assert len({tuple(reply.tokens) for reply in replies}) > 12


def test_samples_read_their_prompt_once() -> None:
    read = []
    table = MODERN.get_submodule("bigram")  # looked up once for each token that is read
    handle = table.register_forward_pre_hook(lambda _, args: read.append(args[0].numel()))
    try:
        replies = Engine(MODERN, slots=4, prefill_chunk=16).generate(Request(prompt(30), max_tokens=3).samples(4))
    finally:
        handle.remove()
    assert [len(reply.tokens) for reply in replies] == [3] * 4
    assert read == [16, 14, 4, 4]


def test_samples_survive_the_cancelling_of_the_one_that_reads() -> None:
    requests = Request(prompt(30), temperature=2.0, seed=5, max_tokens=4).samples(3)
    alone = [Engine(MODERN).generate([request])[0].tokens for request in requests]
    engine = Engine(MODERN, slots=3, prefill_chunk=8)
    ids = [engine.submit(request) for request in requests]
    engine.step()
    engine.cancel(ids[0])
    events = []
    while engine.busy:
        events += engine.step()
    assert [[e.token for e in events if e.request_id == id_] for id_ in ids] == [[None], alone[1], alone[2]]


@pytest.mark.parametrize("seeds", [(None, None), (1, -1)])
def test_other_seeds_and_no_seed_mean_other_answers(seeds: tuple[int | None, int | None]) -> None:
    requests = [Request(prompt(4), temperature=5.0, max_tokens=20, seed=seed) for seed in seeds]
    first, second = Engine(MODERN, slots=2).generate(requests)
    assert first.tokens != second.tokens


def allowed(
    logits: list[float], temperature: float, top_k: int | None, top_p: float, min_p: float
) -> dict[int, float]:
    """The distribution that is sampled from, written the slow way."""
    if temperature == 0:
        return {max(range(len(logits)), key=logits.__getitem__): 1.0}
    order = sorted(range(len(logits)), key=lambda i: -logits[i])[: top_k or None]
    order = [i for i in order if math.exp((logits[i] - logits[order[0]]) / temperature) >= min_p]
    weights = {i: math.exp((logits[i] - logits[order[0]]) / temperature) for i in order}
    total, mass, kept = sum(weights.values()), 0.0, {}
    for i in order:
        if mass < top_p or not kept:
            kept[i] = weights[i]
        mass += weights[i] / total
    return {i: weight / sum(kept.values()) for i, weight in kept.items()}


@settings(max_examples=60)
@given(
    st.lists(st.integers(-60, 60), min_size=2, max_size=12, unique=True),
    st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    st.sampled_from([None, 0, 1, 3, 100]),
    st.sampled_from([1.0, 0.85, 0.41, 0.0]),
    st.sampled_from([0.0, 0.0, 0.0501, 0.7, 1.0]),
)
def test_tokens_are_drawn_from_the_distribution_that_was_asked_for(
    values: list[int], temperature: float, top_k: int | None, top_p: float, min_p: float
) -> None:
    logits = [value / 10 for value in values]
    draws = 2000  # at evenly spaced numbers instead of random ones, each token is drawn as often as it should be
    if top_p < 1:
        min_p = 0.0  # both together cut by a probability after one of them has cut
    request = Request([1], temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    drawn = sample(torch.tensor([logits] * draws), [Row(request, (i + 0.5) / draws) for i in range(draws)])
    expected = allowed(logits, temperature, top_k, top_p, min_p)
    counts = Counter(drawn)
    assert counts.keys() <= expected.keys()
    for token, probability in expected.items():
        assert abs(counts[token] - probability * draws) <= 2


def test_extreme_settings_still_draw_the_most_likely_token() -> None:
    logits = torch.tensor([[1.0, 3.0, -torch.inf, 2.0]])
    for request in (Request([1], temperature=1e-4), Request([1], temperature=1e-300), Request([1], top_p=0.0)):
        assert sample(logits, [Row(request, 0.999999999)]) == [1]
    assert sample(logits, [Row(Request([1], temperature=1e30), 1 - 2**-53)]) == [3]  # never one of probability zero


@settings(max_examples=60)
@given(
    st.lists(st.floats(-9, 9), min_size=4, max_size=9, unique=True),
    st.lists(st.integers(0, 3), max_size=6),
    st.sampled_from([1.0, 0.5, 1.8]),
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.dictionaries(st.integers(0, 3), st.floats(-20, 20), max_size=3),
    st.integers(0, 15),
)
def test_penalties_bias_and_mask_follow_their_formulas(
    logits: list[float], reply: list[int], repetition: float, presence: float, frequency: float,
    bias: dict[int, float], ruled_out: int,
) -> None:  # fmt: skip
    request = Request(
        [2], temperature=0, repetition_penalty=repetition, presence_penalty=presence, frequency_penalty=frequency,
        logit_bias=bias,
    )  # fmt: skip
    mask = torch.tensor([i > 3 or not ruled_out >> i & 1 for i in range(len(logits))])
    mask[3] = True
    expected = []
    for i, logit in enumerate(logits):
        z = logit + bias.get(i, 0.0)
        if i == 2 or i in reply:
            z = z / repetition if z > 0 else z * repetition
        z -= presence * (i in reply) + frequency * reply.count(i)
        expected.append(z if mask[i] else -math.inf)
    before = torch.tensor([[0.0] * len(logits), logits])
    plain = Row(Request([1], temperature=0), 0.5)
    _, token = sample(before.clone(), [plain, Row(request, 0.5, Counter(reply), mask)])
    assert expected[token] >= max(expected) - 1e-4  # float32 may break what is nearly a tie


def test_penalties_count_over_the_whole_reply() -> None:
    free = Engine(MODERN).generate([Request(prompt(5), temperature=0, max_tokens=30)])[0].tokens
    assert len(set(free)) < len(free)
    request = Request(prompt(5), temperature=0, max_tokens=30, frequency_penalty=1e6)
    fresh = Engine(MODERN).generate([request])[0].tokens
    assert len(set(fresh)) == len(fresh) == 30
    request = Request(prompt(5), temperature=0, max_tokens=30, repetition_penalty=1e6)
    new = Engine(MODERN).generate([request])[0].tokens
    assert not set(new[:5]) & set(prompt(5))


def test_logprobs_are_those_of_the_plain_distribution() -> None:
    request = Request(prompt(7), temperature=3.0, seed=2, max_tokens=6, logprobs=3, logit_bias={4: 5.0})
    stream = Engine(MODERN, slots=2).stream([request, Request(prompt(4), max_tokens=3)])
    events = [event for i, event in stream if i == 0]
    tokens = [event.token for event in events if event.token is not None]
    with torch.no_grad():
        logits = MODERN(torch.tensor([request.prompt + tokens]))[0, len(request.prompt) - 1 : -1]
    expected = logits.log_softmax(dim=-1)
    for event, row in zip(events, expected, strict=True):
        assert event.scored is not None and event.token is not None
        assert event.scored.logprob == pytest.approx(float(row[event.token]), abs=1e-4)
        best = row.topk(3)
        assert [id for id, _ in event.scored.top] == best.indices.tolist()
        assert [value for _, value in event.scored.top] == pytest.approx(best.values.tolist(), abs=1e-4)
    rated = Engine(MODERN, prefill_chunk=5).prompt_logprobs(request.prompt + tokens, 0)
    assert [s.logprob for s in rated[len(request.prompt) - 1 :]] == pytest.approx(
        [event.scored.logprob for event in events if event.scored], abs=1e-4
    )
    assert all(s.top == () for s in rated) and Engine(MODERN).prompt_logprobs([5], 2) == []


class Alternating:
    """Even and odd ids in turn, five of them; then the reply must end with `stop`."""

    def __init__(self, stop: int, done: int = 0) -> None:
        self.stop, self.done = stop, done

    def mask(self) -> torch.Tensor:
        ids = torch.arange(100)
        return ids == self.stop if self.done == 5 else (ids % 2 == self.done % 2) & (ids != self.stop)

    def accept(self, token: int) -> None:
        self.done += 1

    def copy(self) -> "Alternating":
        return Alternating(self.stop, self.done)


def test_a_constraint_decides_what_may_come_and_samples_do_not_share_it() -> None:
    request = Request(prompt(5), temperature=2.0, seed=1, stop_ids={50}, constraint=Alternating(50))
    free = Request(prompt(6), temperature=2.0, seed=1, max_tokens=9)
    engine = Engine(MODERN, slots=3)
    *constrained, beside = engine.generate([*request.samples(3), free])
    for reply in constrained:
        assert [token % 2 for token in reply.tokens] == [0, 1, 0, 1, 0]
        assert reply.finish == "stop"
    assert len({tuple(reply.tokens) for reply in constrained}) == 3
    assert beside == Engine(MODERN).generate([free])[0]


# ---------------------------------------------------------------- what slots still hold


def read_tokens(engine: Engine, requests: list[Request]) -> tuple[list, int]:
    """The replies, and how many tokens of prompts had to be read for them."""
    before = engine.stats.prompt_tokens - engine.stats.cached_tokens
    replies = engine.generate(requests)
    return replies, engine.stats.prompt_tokens - engine.stats.cached_tokens - before


@pytest.mark.parametrize("chunk", [5, 256])
def test_the_next_turn_reads_only_what_is_new(model: GPT, chunk: int) -> None:
    engine = Engine(model, slots=3, prefill_chunk=chunk)
    one, two = prompt(20), prompt(18, start=2)
    for turn in range(3):
        requests = [Request(ids, temperature=0, max_tokens=3) for ids in (one, two)]
        replies, read = read_tokens(engine, requests)
        assert [reply.tokens for reply in replies] == [naive(model, ids, 3) for ids in (one, two)]
        # what was sampled last is not in the cache, and the two new tokens are not either
        assert read == (38 if turn == 0 else 6)
        one, two = (ids + reply.tokens + [7, 9] for ids, reply in zip((one, two), replies, strict=True))


def test_a_common_beginning_is_copied_from_any_slot() -> None:
    engine = Engine(MODERN, slots=3)
    common = prompt(20)
    requests = [Request(common + [n, n + 1], temperature=0, max_tokens=20, stop_ids={n}) for n in (1, 2, 3)]
    expected = [Engine(MODERN).generate([request])[0] for request in requests]
    events = []
    first = engine.submit(requests[0])
    events += engine.step()
    rest = [engine.submit(request) for request in requests[1:]]  # the first one is still at work
    while engine.busy:
        events += engine.step()
    assert engine.stats.cached_tokens == 40
    for id, reply in zip([first, *rest], expected, strict=True):
        assert [e.token for e in events if e.request_id == id and e.token is not None] == reply.tokens
    assert [next(e for e in events if e.request_id == id).cached for id in [first, *rest]] == [0, 20, 20]


def test_a_branch_does_not_spoil_the_conversation_it_left() -> None:
    engine = Engine(MODERN, slots=2)
    long = prompt(40)
    engine.generate([Request(long, temperature=0, max_tokens=1)])
    branch, read = read_tokens(engine, [Request(long[:18] + [5, 6], temperature=0, max_tokens=4)])
    assert read == 2
    assert branch[0].tokens == naive(MODERN, long[:18] + [5, 6], 4)
    again, read = read_tokens(engine, [Request([*long, 1], temperature=0, max_tokens=4)])
    assert read == 1
    assert again[0].tokens == naive(MODERN, [*long, 1], 4)


def test_the_longest_unused_slot_is_given_away_first() -> None:
    engine = Engine(MODERN, slots=3)
    talks = [prompt(20, start) for start in range(4)]
    for talk in talks:  # the fourth takes the first one's slot
        engine.generate([Request(talk, max_tokens=1)])
    read = [read_tokens(engine, [Request([*talk, 1], max_tokens=1)])[1] for talk in reversed(talks)]
    assert read == [1, 1, 1, 21]


@settings(max_examples=15)
@given(st.data())
def test_whatever_slots_hold_changes_no_reply(data: st.DataObject) -> None:
    engine = Engine(MODERN, slots=data.draw(st.integers(1, 3)), prefill_chunk=data.draw(st.sampled_from([4, 64])))
    texts = [prompt(24, start) for start in range(2)]
    for _ in range(data.draw(st.integers(2, 5))):
        requests = []
        for _ in range(data.draw(st.integers(1, 3))):
            begun = data.draw(st.sampled_from(texts))[: data.draw(st.integers(1, 40))]
            ids = begun + data.draw(st.sampled_from([[], [3]]))
            requests.append(Request(ids, temperature=data.draw(st.sampled_from([0.0, 2.0])), seed=1, max_tokens=3))
        replies = engine.generate(requests)
        assert replies == [Engine(MODERN, slots=1).generate([request])[0] for request in requests]
        texts += [request.prompt + reply.tokens for request, reply in zip(requests, replies, strict=True)]
        texts = [text[:44] for text in texts]


def test_padded_vocabulary_is_never_sampled(model: GPT) -> None:
    replies = Engine(model).generate(Request(prompt(3), temperature=50.0, seed=0).samples(8))
    assert max(token for reply in replies for token in reply.tokens) < model.config.vocab_size


# ---------------------------------------------------------------- how a request ends


def test_the_stop_token_is_not_part_of_the_reply() -> None:
    tokens = naive(MODERN, prompt(5), 9)
    stop = tokens[6]
    before = tokens[: tokens.index(stop)]
    reply = Engine(MODERN).generate([Request(prompt(5), temperature=0, stop_ids={stop})])[0]
    assert (reply.tokens, reply.finish, reply.stop_id) == (before, "stop", stop)


def test_a_reply_does_not_stop_before_its_least_number_of_tokens() -> None:
    stops = frozenset(range(0, 100, 2))

    def ask(**settings: Any) -> list[Request]:
        return Request(prompt(5), temperature=2.0, seed=3, stop_ids=stops, **settings).samples(6)

    engine = Engine(MODERN, slots=4)
    assert any(len(reply.tokens) < 4 for reply in engine.generate(ask()))
    replies = engine.generate(ask(min_tokens=4))
    assert all(len(reply.tokens) >= 4 and not stops & set(reply.tokens) for reply in replies)
    assert {reply.finish for reply in replies} == {"stop"} and replies == engine.generate(ask(min_tokens=4))
    # Only the stop token follows five of the constraint's, and so it comes.
    ended = Request(prompt(5), stop_ids={50}, min_tokens=9, constraint=Alternating(50))
    (reply,) = engine.generate([ended])
    assert (len(reply.tokens), reply.finish) == (5, "stop")


@pytest.mark.parametrize("max_tokens, expected", [(0, 0), (1, 1), (5, 5), (None, 29), (1000, 29)])
def test_max_tokens_is_cut_to_what_fits(max_tokens: int | None, expected: int) -> None:
    reply = Engine(MODERN).generate([Request(prompt(20), max_tokens=max_tokens, temperature=0)])[0]
    assert (len(reply.tokens), reply.finish) == (expected, "length")


def test_a_prompt_longer_than_the_context_is_refused_before_any_work() -> None:
    engine = Engine(MODERN, max_len=20)
    with pytest.raises(ContextLengthError, match="maximum context length is 20 tokens, but the prompt has 21 tokens"):
        engine.generate([Request(prompt(4)), Request(prompt(21))])
    assert not engine.busy


@pytest.mark.parametrize("bad", [-1, 100])
def test_ids_outside_the_vocabulary_are_refused(bad: int) -> None:
    engine = Engine(MODERN)
    for refused in (lambda: engine.submit(Request([1, bad])), lambda: engine.score([[1, bad]]),
                    lambda: engine.submit(Request([1], logit_bias={bad: 1.0}))):  # fmt: skip
        with pytest.raises(UserError, match=f"token id {bad} is outside the model's vocabulary of 100"):
            refused()


@pytest.mark.parametrize(
    "settings",
    [{"prompt": []}, {"max_tokens": -1}, {"min_tokens": -1}, {"min_tokens": 3, "max_tokens": 2},
     {"temperature": -0.1}, {"temperature": math.nan}, {"temperature": math.inf},
     {"top_k": -1}, {"top_p": 1.1}, {"top_p": math.nan}, {"min_p": -0.1}, {"min_p": math.nan},
     {"repetition_penalty": 0}, {"repetition_penalty": 1e-40}, {"temperature": 1e39}, {"frequency_penalty": -1e39},
     {"presence_penalty": math.nan}, {"frequency_penalty": math.inf}, {"logit_bias": {1: math.nan}}, {"logprobs": -1}],
)  # fmt: skip
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        Request(**{"prompt": [1], **settings})


def test_cancelling_frees_the_slot() -> None:
    engine = Engine(MODERN, slots=1)
    running = engine.submit(Request(prompt(4)))
    waiting = engine.submit(Request(prompt(5)))
    next_one = engine.submit(Request(prompt(6), temperature=0, max_tokens=1))
    engine.step()
    assert engine.free_slots == 0
    assert engine.cancel(running) and engine.cancel(waiting)
    assert not engine.cancel(running) and not engine.cancel(12345)
    events = engine.step()
    assert [(e.request_id, e.finish) for e in events] == [
        (running, "cancelled"), (waiting, "cancelled"), (next_one, "length"),
    ]  # fmt: skip
    assert events[-1].token == naive(MODERN, prompt(6), 1)[0]
    assert engine.free_slots == 1 and not engine.busy


def test_a_stream_that_is_closed_leaves_nothing_behind() -> None:
    engine = Engine(MODERN, slots=1)
    stream = engine.stream([Request(prompt(4), seed=1), Request(prompt(5))])
    for _ in range(3):
        next(stream)
    with pytest.raises(RuntimeError, match="busy"):
        engine.generate([Request(prompt(3))])
    stream.close()
    assert not engine.busy and engine.free_slots == 1
    assert engine.generate([Request(prompt(5), temperature=0, max_tokens=4)])[0].tokens == naive(MODERN, prompt(5), 4)


# ---------------------------------------------------------------- tools


def tool_chain(tokenizer, expression: str) -> tuple[dict[int, int], list[int], list[int]]:
    """A script that answers with a calculation and then "!"; its sampled and its forced tokens."""
    ids = chat.tool_ids(tokenizer)
    call = [ids.python_start, *tokenizer.encode(expression), ids.python_end]
    after = tokenizer.encode("!")
    assert len(set(call)) == len(call), "a chain cannot tell equal tokens apart"
    chain = [tokenizer.special(chat.ASSISTANT_START), *call]
    script = {**dict(itertools.pairwise(chain)), ids.output_end: after[0]}
    return script, call + after, [ids.output_start, *tokenizer.encode("42"), ids.output_end]


def ask(tokenizer, **settings) -> Request:
    ids = chat.prompt(tokenizer, [{"role": "user", "content": "?"}])
    stop_ids = chat.stop_ids(tokenizer)
    return Request(ids, temperature=0, stop_ids=stop_ids, **{"tools": calculator_tools(tokenizer), **settings})


def test_a_tool_call_is_answered_with_forced_tokens(tokenizer) -> None:
    script, sampled, forced = tool_chain(tokenizer, "6*7")
    reply = Engine(scripted(tokenizer, script.items())).generate([ask(tokenizer)])[0]
    assert reply.tokens == sampled[:-1] + forced + sampled[-1:]
    assert [token for token, is_forced in zip(reply.tokens, reply.forced, strict=True) if is_forced] == forced
    assert reply.finish == "stop"
    assert chat.reply_text(tokenizer, reply.tokens) == "!"


def test_forced_tokens_do_not_count_against_max_tokens(tokenizer) -> None:
    script, sampled, forced = tool_chain(tokenizer, "6*7")
    engine = Engine(scripted(tokenizer, script.items()))
    whole = engine.generate([ask(tokenizer, max_tokens=len(sampled))])[0]
    assert whole.forced.count(False) == len(sampled) and whole.forced.count(True) == len(forced)
    cut = engine.generate([ask(tokenizer, max_tokens=len(sampled) - 1)])[0]
    assert (cut.tokens, cut.finish) == (sampled[:-1], "length")


def test_a_tools_output_is_never_cut_by_the_end_of_the_context(tokenizer) -> None:
    script, sampled, forced = tool_chain(tokenizer, "6*7")
    request = ask(tokenizer)
    needed = len(request.prompt) + len(sampled) - 1 + len(forced)
    model = scripted(tokenizer, script.items())
    fits = Engine(model, max_len=needed).generate([request])[0]
    assert fits.tokens == sampled[:-1] + forced + sampled[-1:]
    too_short = Engine(model, max_len=needed - 1).generate([request])[0]
    assert (too_short.tokens, too_short.finish) == (sampled[:-1], "length")


@pytest.mark.parametrize("expression", ["6*", "6/0"])
def test_a_call_without_a_result_forces_nothing(tokenizer, expression: str) -> None:
    script, sampled, _ = tool_chain(tokenizer, expression)
    reply = Engine(scripted(tokenizer, script.items())).generate([ask(tokenizer)])[0]
    assert reply.tokens == sampled[:-1]  # python_end is not in the script, so the answer ends there
    assert not any(reply.forced)


def test_each_call_gets_its_own_ids_and_an_empty_one_is_ignored(tokenizer) -> None:
    ids = chat.tool_ids(tokenizer)
    one, two = tokenizer.encode("1")[0], tokenizer.encode("2")[0]
    start = tokenizer.special(chat.ASSISTANT_START)
    calls: list[list[int]] = []
    tools = Tools(ids, calls.append)
    empty = {start: ids.python_start, ids.python_start: ids.python_end}
    Engine(scripted(tokenizer, empty.items())).generate([ask(tokenizer, tools=tools)])
    assert calls == []
    again = {start: one, one: ids.python_start, ids.python_start: two, two: ids.python_end, ids.python_end: one}
    Engine(scripted(tokenizer, again.items())).generate([ask(tokenizer, tools=tools, max_tokens=9)])
    assert calls == [[two], [two]]


def test_tool_calls_of_neighbours_do_not_mix(tokenizer) -> None:
    script, _, _ = tool_chain(tokenizer, "6*7")
    model = scripted(tokenizer, script.items())
    requests = [ask(tokenizer, max_tokens=n) for n in (None, 3, None, 5, None, 1)]
    together = Engine(model, slots=4).generate(requests)
    assert together == [Engine(model, slots=1).generate([request])[0] for request in requests]


def test_a_slow_tool_does_not_stall_the_others(tokenizer) -> None:
    script, sampled, forced = tool_chain(tokenizer, "6*7")
    model = scripted(tokenizer, script.items())
    may_end = threading.Event()

    def run(ids: list[int]) -> list[int]:
        may_end.wait(60)
        return tokenizer.encode("42")

    engine = Engine(model, slots=2)
    slow = engine.submit(ask(tokenizer, tools=Tools(chat.tool_ids(tokenizer), run, slow=True)))
    quick = engine.submit(ask(tokenizer))
    events = []
    while not any(event.request_id == quick and event.finish for event in events):
        events += engine.step()
    assert [event.token for event in events if event.request_id == slow] == sampled[:-1]
    assert engine.step() == []  # nothing to do but to wait
    may_end.set()
    while engine.busy:
        events += engine.step()
    reply = [event.token for event in events if event.request_id == slow and event.token is not None]
    assert reply == sampled[:-1] + forced + sampled[-1:]
    may_end.clear()
    cancelled = engine.submit(ask(tokenizer, tools=Tools(chat.tool_ids(tokenizer), run, slow=True)))
    for _ in range(8):
        engine.step()
    engine.cancel(cancelled)
    assert [event.finish for event in engine.step()] == ["cancelled"]
    assert engine.free_slots == 2 and not engine.busy
    may_end.set()


def test_a_tool_that_raises_ends_what_runs_and_the_engine_continues(tokenizer) -> None:
    script, sampled, _ = tool_chain(tokenizer, "6*7")
    engine = Engine(scripted(tokenizer, script.items()), slots=2)

    def fail(ids: list[int]) -> list[int]:
        raise ZeroDivisionError("the tool is broken")

    ids = [engine.submit(ask(tokenizer, tools=Tools(chat.tool_ids(tokenizer), fail))), engine.submit(ask(tokenizer))]
    later = engine.submit(ask(tokenizer))
    with pytest.raises(ZeroDivisionError):
        for _ in range(20):
            engine.step()
    events = engine.step()
    assert [event.request_id for event in events if event.finish == "cancelled"] == ids
    while engine.busy:
        events += engine.step()
    assert [e.token for e in events if e.request_id == later and not e.forced and e.token is not None] == sampled
    assert engine.free_slots == 2


def test_numbers_that_are_not_finite_stay_with_their_request() -> None:
    model = random_model(CONFIGS["modern"])
    broken, sound = 99, Request(prompt(5), temperature=0, max_tokens=4)
    assert broken not in sound.prompt
    with torch.no_grad():
        model.get_parameter("value_embeds.0.weight")[broken] = torch.nan
    expected = Engine(model).generate([sound])[0]
    assert broken not in expected.tokens
    engine = Engine(model, slots=1)
    engine.generate([Request(prompt(20)[:19] + [broken], temperature=0, max_tokens=2)])
    assert engine.generate([sound])[0] == expected


@pytest.mark.parametrize("settings", [{"slots": 0}, {"max_len": 0}, {"prefill_chunk": 0}])
def test_an_engine_of_nothing_is_refused(settings: dict) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        Engine(MODERN, **settings)


# ---------------------------------------------------------------- scoring


def test_score_equals_the_model_on_each_sequence_alone(model: GPT, monkeypatch: pytest.MonkeyPatch) -> None:
    sequences = [prompt(n, n) for n in (5, 1, CONTEXT, 12, 5, 30)]
    monkeypatch.setattr("nanochat.engine.engine.SCORED_LOGITS", 100 * 100)  # so that several batches are needed
    engine = Engine(model)
    with torch.no_grad():
        for ids, scores, logits in zip(sequences, engine.score(sequences), engine.next_logits(sequences), strict=True):
            alone = model(torch.tensor([ids]))[0]
            expected = -alone.log_softmax(dim=-1)[:-1].gather(1, torch.tensor(ids[1:], dtype=torch.long)[:, None])
            assert scores.shape == (len(ids) - 1,)
            torch.testing.assert_close(scores, expected.squeeze(1), atol=1e-4, rtol=0)
            torch.testing.assert_close(logits, alone[-1], atol=1e-4, rtol=0)
    assert engine.score([]) == [] and engine.next_logits([]).shape == (0, 100)
