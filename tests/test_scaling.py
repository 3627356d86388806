"""What follows from --depth, how the rates move, and what a model costs."""

import math
import re

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from nanochat import schedule
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig, count_parameters
from nanochat.plan.cost import flops_per_token
from nanochat.scaling import config_from_depth, horizon, scaling_parameters, shared, short_window
from nanochat.train import stage
from nanochat.train.flags import TrainFlags

# ---------------------------------------------------------------- shapes


@pytest.mark.parametrize("depth, width, heads", [(4, 256, 2), (12, 768, 6), (20, 1280, 10), (26, 1664, 13)])
def test_the_shapes_of_the_published_depths(depth, width, heads):
    config = config_from_depth(depth, 32768, 2048)
    assert (config.n_layer, config.n_embd, config.n_head, config.n_kv_head) == (depth, width, heads, heads)
    assert (config.short_window, config.long_window, config.window_pattern) == (512, 2048, "SSSL")
    assert (config.vocab_size, config.sequence_len) == (32768, 2048)
    assert not config.key_offset and config.bigram_rows == 0


def test_the_last_layer_is_not_taken_away_from_itself():
    """A lambda above 1 would flip the sign of all logits, which happened in training at depth 2."""
    for depth in range(1, 7):
        config = config_from_depth(depth, 300, 64)
        assert config.backout == (config.n_layer // 2 < config.n_layer - 1)


@pytest.mark.parametrize("vocabulary, rows", [(300, 1499), (4096, 20479), (8192, 40959), (8193, 0)])
def test_pairs_are_for_small_vocabularies(vocabulary, rows):
    assert config_from_depth(4, vocabulary, 256).bigram_rows == rows


@given(st.integers(1, 40), st.integers(1, 200), st.sampled_from([16, 32, 64, 128]))
def test_widths_are_whole_heads_and_never_narrower_than_asked(depth, aspect_ratio, head_dim):
    assume(depth * aspect_ratio >= 24)
    config = config_from_depth(depth, 300, 64, aspect_ratio, head_dim, "sl")
    assert config.head_size == head_dim and config.n_head >= 1
    assert depth * aspect_ratio <= config.n_embd < depth * aspect_ratio + head_dim
    assert config.window_pattern == "SL"
    assert config.window(depth - 1) == 64  # the last layer sees all


@pytest.mark.parametrize("context, window", [(2048, 512), (1024, 256), (256, 128), (2049, 640), (64, 128)])
def test_short_windows(context, window):
    assert short_window(context) == window


@pytest.mark.parametrize(
    "wrong",
    [{"depth": 0}, {"depth": -3}, {"window_pattern": ""}, {"window_pattern": "SXL"}, {"head_dim": 0},
     {"head_dim": -64}, {"head_dim": 33}, {"aspect_ratio": 0}, {"aspect_ratio": -1}, {"vocab_size": 0},
     {"aspect_ratio": 4, "head_dim": 16}],
    ids=str,
)  # fmt: skip
def test_shapes_that_cannot_be(wrong):
    with pytest.raises(UserError, match="--" + next(iter(wrong))):
        config_from_depth(**{"depth": 4, "vocab_size": 300, "sequence_len": 64, **wrong})


@pytest.mark.parametrize("depth, head_dim", [(1, 16), (3, 2), (2, 10)])
def test_the_narrowest_model_that_is_advised_has_room_for_its_gates(depth, head_dim):
    with pytest.raises(UserError, match=r"gates read 24 channels; use --aspect_ratio=(\d+) or more") as refused:
        config_from_depth(depth, 300, 64, 4, head_dim)
    advised = re.findall(r"--aspect_ratio=(\d+) or", str(refused.value))[0]
    config = config_from_depth(depth, 300, 64, int(advised), head_dim)
    assert GPT(config)(torch.zeros(1, 5, dtype=torch.int64)).shape == (1, 5, 300)


@given(
    layers=st.integers(1, 4), heads=st.sampled_from([1, 2, 4]), kv=st.sampled_from([1, 2, 4]),
    value_embeds=st.booleans(), vocab=st.integers(1, 200),
)  # fmt: skip
def test_scaling_parameters_are_the_matrices_of_the_real_model(layers, heads, kv, value_embeds, vocab):
    assume(heads % kv == 0)
    config = GPTConfig(16, vocab, layers, heads, kv, 32, value_embeds=value_embeds)
    with torch.device("meta"):
        model = GPT(config)
    matrices = [p.numel() for name, p in model.named_parameters() if name.startswith(("transformer.h.", "lm_head"))]
    assert scaling_parameters(config) == sum(matrices)
    assert count_parameters(model) == sum(p.numel() for p in model.parameters())


# ---------------------------------------------------------------- batch and length


def test_depth_12_is_the_reference():
    h = horizon(config_from_depth(12, 32768, 2048))
    assert (h.total_batch_size, h.lr_scale) == (524288, 1.0)
    assert h.num_iterations == 2520 and h.weight_decay_scale == pytest.approx(1.0, abs=1e-3)


def test_deeper_models_take_bigger_batches_for_longer():
    found = [horizon(config_from_depth(depth, 32768, 2048)) for depth in (4, 8, 12, 20, 26, 32)]
    assert [h.total_batch_size for h in found] == [2**18, 2**18, 2**19, 2**20, 2**20, 2**21]
    tokens = [h.total_batch_size * h.num_iterations for h in found]
    assert tokens == sorted(tokens)
    decays = [h.weight_decay_scale for h in found]
    assert decays == sorted(decays, reverse=True)


@given(st.integers(1, 32), st.integers(256, 70000), st.floats(0.1, 100), st.sampled_from([64, 512, 2048]))
def test_what_the_rules_give_is_sound(depth, vocab, ratio, context):
    config = config_from_depth(depth, vocab, context)
    h = horizon(config, param_data_ratio=ratio)
    assert math.log2(h.total_batch_size).is_integer() and h.num_iterations >= 1
    wanted = ratio * scaling_parameters(config)
    assert abs(h.num_iterations * h.total_batch_size - wanted) <= max(h.total_batch_size, wanted) / 2 + 1
    assert h.lr_scale == pytest.approx((h.total_batch_size / 2**19) ** 0.5)
    assert 0 < h.weight_decay_scale < math.inf


@pytest.mark.parametrize("depth", [4, 12, 20])
@pytest.mark.parametrize("ranks", [1, 8, 64, 6, 7])
def test_a_run_is_the_same_on_any_number_of_ranks(depth, ranks):
    config = config_from_depth(depth, 32768, 2048)
    alone, h = horizon(config), horizon(config, rows=32, ranks=ranks)
    assert h.rows <= 32 and h.total_batch_size % (h.rows * 2048 * ranks) == 0
    if ranks in (6, 7):
        assert h.total_batch_size == pytest.approx(alone.total_batch_size, rel=0.05)
    else:
        assert (h.total_batch_size, h.num_iterations) == (alone.total_batch_size, alone.num_iterations)
    tokens = h.total_batch_size * h.num_iterations
    assert tokens == pytest.approx(12 * scaling_parameters(config), rel=1e-2)


@given(st.integers(1, 2**22), st.integers(1, 40), st.integers(1, 4096), st.integers(1, 9))
def test_a_shared_batch_is_whole_rounds_near_what_was_asked(batch, rows, length, ranks):
    found, fewer = shared(batch, rows, length, ranks)
    assert 1 <= fewer <= rows and found % (fewer * length * ranks) == 0 and found > 0
    if batch % (length * ranks) == 0:
        assert found == batch
    least = length * ranks  # one row of each
    rounds = -(-batch // (rows * least))
    assert abs(found - batch) <= max(least, rounds * least / 2)


def test_flags_override_the_rules():
    config = config_from_depth(4, 4096, 256)
    assert horizon(config, total_batch_size=4096, num_iterations=7).total_batch_size == 4096
    assert horizon(config, num_iterations=7).num_iterations == 7
    assert horizon(config, num_iterations=7, target_flops=1e15, flops_per_token=100).num_iterations == 7
    h = horizon(config, total_batch_size=1024, target_flops=1e12, flops_per_token=10**6)
    assert h.num_iterations == round(1e12 / 1e6 / 1024)
    assert horizon(config, total_batch_size=1024, param_data_ratio=1e-9).num_iterations == 1
    with pytest.raises(UserError, match="--num_iterations"):
        horizon(config, param_data_ratio=0)


# ---------------------------------------------------------------- schedule

fractions = st.floats(0, 1)


@given(fractions, st.integers(0, 10**6), st.integers(0, 50), fractions, fractions, fractions)
def test_the_rate_stays_within_bounds(progress, step, warmup_steps, warmup_ratio, warmdown_ratio, final):
    factor = schedule.lr_multiplier(progress, step, warmup_steps, warmup_ratio, warmdown_ratio, final)
    assert 0 <= factor <= 1
    if progress < 1:
        assert factor > 0  # a step at rate zero is a step lost


def test_the_corners_of_the_rate():
    def rate(progress: float, step: int = 1000) -> float:
        return schedule.lr_multiplier(
            progress, step, warmup_steps=40, warmup_ratio=0.1, warmdown_ratio=0.5, final_lr_frac=0.05
        )

    assert [rate(p) for p in (0.1, 0.3, 0.5, 0.75, 1.0)] == pytest.approx([1, 1, 1, 0.525, 0.05])
    assert rate(0.05) == pytest.approx(0.5)
    assert rate(0.3, step=0) == pytest.approx(1 / 41)
    assert rate(0.3, step=40) == 1
    assert rate(0.0) > 0
    assert schedule.lr_multiplier(1.0, 5, warmdown_ratio=0.0) == 1.0


@given(fractions, st.lists(st.floats(0, 10), min_size=1, max_size=60))
def test_a_curve_goes_through_its_points_and_stays_between_them(progress, curve):
    points = [schedule.on_curve(n / max(1, len(curve) - 1), curve) for n in range(len(curve))]
    assert points == pytest.approx(curve)
    assert min(curve) - 1e-9 <= schedule.on_curve(progress, curve) <= max(curve) + 1e-9


def test_a_curve_takes_the_place_of_warmup_and_warmdown():
    flags = TrainFlags(warmup_steps=9, warmdown_ratio=1.0, lr_curve=[0.0, 2.0, 1.0])
    assert [stage.rates(flags, 0, progress).lr for progress in (0.25, 0.5, 0.75)] == [1.0, 2.0, 1.5]
    assert stage.rates(TrainFlags(warmup_steps=9), 0, 0.25).lr == pytest.approx(0.1)


def test_the_corners_of_momentum_and_decay():
    assert schedule.muon_momentum(0, 0.0) == pytest.approx(0.85)
    assert schedule.muon_momentum(400, 0.3, 0.65) == pytest.approx(0.97)
    assert schedule.muon_momentum(9999, 1.0, 0.65) == pytest.approx(0.90)
    assert schedule.weight_decay_multiplier(0.25) == 0.75


# ---------------------------------------------------------------- cost


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_operations_are_those_that_torch_counts(kv_heads):
    """Forward, with all keys visible to all queries; backward is by convention twice as much."""
    T = 24
    config = GPTConfig(T, 70, 3, 4, kv_heads, 64, window_pattern="L", lambdas=False, value_embeds=False, smear=False,
                       backout=False)  # fmt: skip
    with torch.device("meta"):
        model = GPT(config)
        ids = torch.zeros(2, T, dtype=torch.int64)
        with FlopCounterMode(display=False) as counter:
            model(ids)
    assert flops_per_token(config) * 2 * T == pytest.approx(3 * counter.get_total_flops(), rel=1e-6)


def test_windows_save_operations():
    wide, narrow = (config_from_depth(4, 300, 2048, window_pattern=pattern) for pattern in ("L", "SSSL"))
    saved = 3 * (2048 - 512) * 12 * wide.n_embd
    assert flops_per_token(wide) - flops_per_token(narrow) == saved
