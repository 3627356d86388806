"""The Engine as it works on a GPU, in passes of fixed shapes over pages: the same replies as with the plain cache."""

from collections.abc import Iterator

import pytest
import torch

from nanochat.engine import engine as engine_module
from nanochat.engine.engine import Engine
from nanochat.engine.passes import NEWEST, Passes
from nanochat.engine.request import Request
from nanochat.engine.sampling import Row, settings_of
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.paged_cache import PagedCache

# What holds for any Engine is asked again of one that works in passes.
from tests.test_engine import (  # noqa: F401
    CONTEXT,
    MODERN,
    model,
    naive,
    prompt,
    test_a_branch_does_not_spoil_the_conversation_it_left,
    test_a_common_beginning_is_copied_from_any_slot,
    test_a_constraint_decides_what_may_come_and_samples_do_not_share_it,
    test_a_long_prompt_does_not_stall_the_others,
    test_a_reply_does_not_stop_before_its_least_number_of_tokens,
    test_a_request_gets_what_it_gets_alone,
    test_a_slow_tool_does_not_stall_the_others,
    test_a_stream_that_is_closed_leaves_nothing_behind,
    test_a_tool_that_raises_ends_what_runs_and_the_engine_continues,
    test_a_tools_output_is_never_cut_by_the_end_of_the_context,
    test_cancelling_frees_the_slot,
    test_each_call_gets_its_own_ids_and_an_empty_one_is_ignored,
    test_forced_tokens_do_not_count_against_max_tokens,
    test_greedy_equals_naive_up_to_the_last_position,
    test_joining_and_leaving_neighbours_change_nothing,
    test_logprobs_are_those_of_the_plain_distribution,
    test_max_tokens_is_cut_to_what_fits,
    test_numbers_that_are_not_finite_stay_with_their_request,
    test_padded_vocabulary_is_never_sampled,
    test_penalties_count_over_the_whole_reply,
    test_samples_survive_the_cancelling_of_the_one_that_reads,
    test_the_longest_unused_slot_is_given_away_first,
    test_the_next_turn_reads_only_what_is_new,
    test_the_stop_token_is_not_part_of_the_reply,
    test_tool_calls_of_neighbours_do_not_mix,
    test_waiting_requests_are_admitted_in_order,
    test_whatever_slots_hold_changes_no_reply,
)


@pytest.fixture(autouse=True, scope="module")
def in_passes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine_module, "pages_in_place", lambda *_: True)
        assert isinstance(Engine(MODERN).cache, PagedCache)
        yield


def logits_after(gpt: GPT, ids: list[int]) -> torch.Tensor:
    return gpt(torch.tensor([ids]))[0, -1]


@torch.no_grad()
def test_one_pass_reads_rows_of_any_lengths(model: GPT) -> None:  # noqa: F811
    cache = PagedCache(model.config, 4, CONTEXT, "cpu", torch.float32)
    passes = Passes(model, cache, 40)
    texts = {0: prompt(30), 1: prompt(5, 2), 3: prompt(21, 3)}
    done = dict.fromkeys(texts, 0)
    for counts in ({0: 10, 1: 1, 3: 20}, {0: 17, 1: 3}, {3: 1, 0: 1, 1: 1}, {0: 2}):
        logits = passes.read([(slot, texts[slot][done[slot] : done[slot] + n]) for slot, n in counts.items()])
        for row, (slot, n) in zip(logits, counts.items(), strict=True):
            done[slot] += n
            cache.lengths[slot] = done[slot]
            torch.testing.assert_close(row, logits_after(model, texts[slot][: done[slot]]), atol=2e-5, rtol=0)
    assert list(passes._made) == [40]  # in passes of one shape


@torch.no_grad()
def test_decoding_fills_up_to_a_bucket_and_disturbs_no_other_slot(model: GPT) -> None:  # noqa: F811
    cache = PagedCache(model.config, 5, CONTEXT, "cpu", torch.float32)
    passes = Passes(model, cache, 8)
    texts = [prompt(8, start) for start in range(5)]
    for slot, text in enumerate(texts):
        passes.read([(slot, text[:7])])
        cache.lengths[slot] = 7
    for slots in ([2], [0, 3, 4]):
        logits = passes.decode([(slot, texts[slot][7]) for slot in slots])
        for row, slot in zip(logits, slots, strict=True):
            cache.lengths[slot] = 8
            torch.testing.assert_close(row, logits_after(model, texts[slot]), atol=2e-5, rtol=0)
    torch.testing.assert_close(passes.decode([(1, texts[1][7])])[0], logits_after(model, texts[1]), atol=2e-5, rtol=0)
    assert list(passes._made) == [8, (1, None), (4, None)]
    cache.lengths[1] = CONTEXT - 3
    with pytest.raises(ValueError, match="4 more positions after 45 exceed the cache's 48"):
        passes.read([(1, prompt(4))])


@torch.inference_mode()
def test_a_recorded_pass_depends_on_what_its_buffers_hold_alone() -> None:
    """Replaying the operations of another call, as a CUDA graph does, must give what a fresh call gives."""
    from torch.fx.experimental.proxy_tensor import make_fx

    def run(recorded: bool) -> list[list[int]]:
        torch.manual_seed(0)
        cache = PagedCache(MODERN.config, 3, CONTEXT, "cpu", torch.float32)
        passes = Passes(MODERN, cache, 16)
        rows = [Row(Request([1], temperature=2.0, top_k=9, top_p=0.9, min_p=0.01), 0.5)] * 2
        settings = settings_of(rows, 100)
        if recorded:  # on nothing but padding
            passes._make_reading(16)
            passes._make_decoding(2, settings.kind)
            passes._made = {name: (buffer, make_fx(function)()) for name, (buffer, function) in passes._made.items()}
            for _, function in passes._made.values():  # nothing that copies a number from the host
                operations = {str(node.target) for node in function.graph.nodes}
                assert not {each for each in operations if "scalar" in each or "lift" in each}
            cache.wipe(0)
        said = []
        for texts in ([prompt(5), prompt(9, 2)], [prompt(11, 3), prompt(2)]):
            cache.cut(0, 0)
            cache.cut(2, 0)
            first = passes.read([(0, texts[0]), (2, texts[1])]).argmax(dim=-1).tolist()
            for slot, text in zip((0, 2), texts, strict=True):
                cache.lengths[slot] = len(text)
            said.append(first)
            for step in range(6):
                uniform = [Row(row.request, 0.1 + 0.13 * step + 0.05 * i) for i, row in enumerate(rows)]
                ids = first if step == 0 else [NEWEST] * 2
                entries = list(zip((0, 2), ids, strict=True))
                said.append(passes.decode_and_draw(entries, settings_of(uniform, 100)).read()[0])
                cache.lengths = [length + 1 for length in cache.lengths]
        return said

    assert run(True) == run(False)


def test_the_next_step_starts_before_the_tokens_of_this_one_are_read() -> None:
    stop = naive(MODERN, prompt(5), 12)[-1]
    engine = Engine(MODERN, slots=2)
    engine.submit(Request(prompt(5), temperature=0, max_tokens=30, stop_ids={stop}))
    waits: list[bool] = []
    ends = False
    while not ends:
        ends = any(event.finish for event in engine.step())
        waits.append(engine._ahead is not None)
    assert not waits[0] and all(waits[1:])  # also at the stop, whose next step goes to waste
    assert not engine.busy
    # The slot holds what was read up to the stop, and the next request is not disturbed by what came after.
    again = engine.generate([Request([*prompt(5), *naive(MODERN, prompt(5), 11), 3], temperature=0, max_tokens=4)])
    assert again[0].tokens == naive(MODERN, [*prompt(5), *naive(MODERN, prompt(5), 11), 3], 4)


@pytest.mark.parametrize("settings", [{"logprobs": 0}, {"frequency_penalty": 0.1}, {"max_tokens": 2}])
def test_the_next_step_waits_where_the_host_decides(settings: dict) -> None:
    engine = Engine(MODERN, slots=2)
    engine.submit(Request(prompt(5), **{"temperature": 0, "max_tokens": 4, **settings}))
    while engine.busy:
        engine.step()
        assert engine._ahead is None


def sizes(engine: Engine) -> list[int]:
    """Of the passes that an Engine has made: positions of those that read, rows of those that decode."""
    assert engine._passes is not None
    return [name[0] if isinstance(name, tuple) else int(str(name)) for name in engine._passes._made]


def test_few_shapes_serve_all_requests() -> None:
    engine = Engine(MODERN, slots=6, prefill_chunk=20)
    requests = [Request(prompt(1 + 5 * i, i), temperature=i % 2, seed=i, max_tokens=3 + i) for i in range(9)]
    engine.generate(requests)
    assert sizes(engine).count(20) == 1 and {*sizes(engine)} <= {1, 2, 4, 6, 20}
    one = Engine(MODERN, slots=6, prefill_chunk=20, buckets=[6])
    assert one.generate(requests) == engine.generate(requests)
    assert {*sizes(one)} == {20, 6}


def test_new_weights_of_one_shape_are_taken_where_the_old_ones_are() -> None:
    torch.manual_seed(3)
    mine, other = (GPT(MODERN.config) for _ in range(2))
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    engine = Engine(mine, slots=2)
    request = Request(prompt(20), temperature=0, max_tokens=5)
    engine.generate([request])
    where = [parameter.data_ptr() for parameter in engine.model.parameters()]
    engine.update(other)
    assert engine.generate([request])[0].tokens == naive(other, request.prompt, 5)
    assert [parameter.data_ptr() for parameter in engine.model.parameters()] == where


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a .functools.lru_cache")  # which only a CPU takes
def test_compiled_decoding_gives_the_same_replies() -> None:
    """By a backend that traces and functionalises as Inductor does, but makes no kernels."""
    requests = [Request(prompt(3 + 4 * i, i), temperature=i % 2, seed=i, max_tokens=12) for i in range(5)]
    engine = Engine(MODERN, slots=3, compile="aot_eager")
    assert engine.generate(requests) == Engine(MODERN, slots=3).generate(requests)
    assert {*sizes(engine)} <= {1, 3, 64, 256, 1024}
    with pytest.raises(UserError, match=r"torch.float32 on cpu does not; leave --compile out"):
        Engine(MODERN, paged=False, compile="inductor")
