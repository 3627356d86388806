"""The Engine with a real model: what a request gets is what it would get alone, uncached and unhurried."""

import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nanochat import chat
from nanochat.config import UserError
from nanochat.engine.engine import Engine
from nanochat.engine.request import ContextLengthError, Request
from nanochat.engine.sampling import sample
from nanochat.engine.tools import Tools, calculator_tools
from nanochat.gpt import GPT, GPTConfig
from nanochat.kv_cache import KVCache
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
    "modern": GPTConfig(**SIZES, short_window=8, long_window=CONTEXT),
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


# ---------------------------------------------------------------- the cache


def test_cached_equals_uncached_at_every_split(model: GPT) -> None:
    ids = torch.tensor([prompt(CONTEXT)])
    with torch.no_grad():
        whole = model(ids)
        for split in range(1, CONTEXT):
            cache = KVCache(model.config, 2, CONTEXT, model.device, model.dtype)
            first = model(ids[:, :split], cache=cache.rows([1]))
            second = model(ids[:, split:], cache=cache.rows([1]))
            torch.testing.assert_close(torch.cat([first, second], dim=1), whole, atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 9, 20, CONTEXT - 1, CONTEXT])
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_greedy_equals_naive_up_to_the_last_position(model: GPT, length: int, chunk: int) -> None:
    ids = prompt(length)
    reply = Engine(model, slots=1, prefill_chunk=chunk).generate([Request(ids, temperature=0)])[0]
    assert reply.tokens == naive(model, ids, CONTEXT - length + 1)
    assert reply.finish == "length"


def test_several_turns_in_one_slot(model: GPT) -> None:
    engine = Engine(model, slots=1)
    ids = prompt(5)
    for turn in range(3):
        reply = engine.generate([Request(ids, max_tokens=4, temperature=0)])[0]
        assert reply.tokens == naive(model, ids, 4)
        ids = ids + reply.tokens + prompt(6, start=turn)


# ---------------------------------------------------------------- neighbours

REQUESTS = st.builds(
    lambda length, start, **settings: Request(prompt(length, start), **settings),
    length=st.integers(1, CONTEXT),
    start=st.integers(0, 3),
    max_tokens=st.integers(0, 12),
    temperature=st.sampled_from([0.0, 0.5, 1.0, 3.0]),
    top_k=st.sampled_from([None, 0, 1, 5, 50, 1000]),
    top_p=st.sampled_from([1.0, 0.9, 0.3]),
    seed=st.integers(-3, 3),
)


@settings(max_examples=25)
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
    embedding = MODERN.get_submodule("transformer.wte")
    handle = embedding.register_forward_pre_hook(lambda _, args: read.append(args[0].numel()))
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


def test_no_seed_means_another_answer_each_time() -> None:
    request = Request(prompt(4), temperature=5.0, max_tokens=20)
    first, second = Engine(MODERN, slots=2).generate([request, request])
    assert first.tokens != second.tokens


def test_seeds_of_opposite_sign_differ() -> None:
    plus, minus = (Request(prompt(4), temperature=5.0, max_tokens=20, seed=seed) for seed in (1, -1))
    replies = Engine(MODERN).generate([plus, minus])
    assert replies[0].tokens != replies[1].tokens


def allowed(logits: list[float], temperature: float, top_k: int | None, top_p: float) -> dict[int, float]:
    """The distribution that is sampled from, written the slow way."""
    if temperature == 0:
        return {max(range(len(logits)), key=logits.__getitem__): 1.0}
    order = sorted(range(len(logits)), key=lambda i: -logits[i])[: top_k or None]
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
)
def test_tokens_are_drawn_from_the_distribution_that_was_asked_for(
    values: list[int], temperature: float, top_k: int | None, top_p: float
) -> None:
    logits = [value / 10 for value in values]
    draws = 2000  # at evenly spaced numbers instead of random ones, each token is drawn as often as it should be
    request = Request([1], temperature=temperature, top_k=top_k, top_p=top_p)
    drawn = sample(torch.tensor([logits] * draws), [request] * draws, [(i + 0.5) / draws for i in range(draws)])
    expected = allowed(logits, temperature, top_k, top_p)
    counts = Counter(drawn)
    assert counts.keys() <= expected.keys()
    for token, share in expected.items():
        assert abs(counts[token] - share * draws) <= 2


def test_extreme_settings_still_draw_the_likeliest_token() -> None:
    logits = torch.tensor([[1.0, 3.0, -torch.inf, 2.0]])
    for request in (Request([1], temperature=1e-4), Request([1], temperature=1e-300), Request([1], top_p=0.0)):
        assert sample(logits, [request], [0.999999999]) == [1]
    assert sample(logits, [Request([1], temperature=1e30)], [1 - 2**-53]) == [3]  # never one of probability zero


def test_padded_vocabulary_is_never_sampled(model: GPT) -> None:
    replies = Engine(model).generate(Request(prompt(3), temperature=50.0, seed=0).samples(8))
    assert max(token for reply in replies for token in reply.tokens) < model.config.vocab_size


# ---------------------------------------------------------------- how a request ends


def test_the_stop_token_is_no_part_of_the_reply() -> None:
    tokens = naive(MODERN, prompt(5), 9)
    stop = tokens[6]
    before = tokens[: tokens.index(stop)]
    reply = Engine(MODERN).generate([Request(prompt(5), temperature=0, stop_ids={stop})])[0]
    assert (reply.tokens, reply.finish, reply.stop_id) == (before, "stop", stop)


@pytest.mark.parametrize("max_tokens, expected", [(0, 0), (1, 1), (5, 5), (None, 29), (1000, 29)])
def test_max_tokens_is_cut_to_what_fits(max_tokens: int | None, expected: int) -> None:
    reply = Engine(MODERN).generate([Request(prompt(20), max_tokens=max_tokens, temperature=0)])[0]
    assert (len(reply.tokens), reply.finish) == (expected, "length")


def test_a_prompt_longer_than_the_context_is_refused_before_any_work() -> None:
    engine = Engine(MODERN, max_len=20)
    with pytest.raises(ContextLengthError, match="prompt has 21 tokens, the context holds 20"):
        engine.generate([Request(prompt(4)), Request(prompt(21))])
    assert not engine.busy


@pytest.mark.parametrize("bad", [-1, 100])
def test_ids_outside_the_vocabulary_are_refused(bad: int) -> None:
    engine = Engine(MODERN)
    for refused in (lambda: engine.submit(Request([1, bad])), lambda: engine.score([[1, bad]])):
        with pytest.raises(UserError, match=f"token id {bad} is outside the model's vocabulary of 100"):
            refused()


@pytest.mark.parametrize(
    "settings",
    [{"prompt": []}, {"max_tokens": -1}, {"temperature": -0.1}, {"temperature": math.nan}, {"temperature": math.inf},
     {"top_k": -1}, {"top_p": 1.1}, {"top_p": math.nan}],
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
