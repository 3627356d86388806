"""The Engine as it works on a GPU, in passes of fixed shapes over pages: the same replies as with the plain cache."""

from collections.abc import Iterator

import pytest
import torch

from nanochat.engine import engine as engine_module
from nanochat.engine.engine import Engine
from nanochat.engine.passes import NEWEST, Passes
from nanochat.engine.request import Request
from nanochat.engine.sampling import Row, settings_of
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
        patch.setattr(engine_module, "pages_in_place", lambda device, dtype: True)
        assert isinstance(Engine(MODERN).cache, PagedCache)
        yield
