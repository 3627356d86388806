"""What ranks send is what the plan counts, and how long it takes is computed as by hand."""

import json
import os
import socket
from pathlib import Path

import pytest
import torch
from children import processes
from torch.distributed.tensor import DTensor

from dev import bench_scale
from dev.scale_rank import Size, Training, covered, measured
from nanochat import runtime
from nanochat.plan import cost, scale
from nanochat.plan.gpus import GPUS
from nanochat.plan.scale import NETWORK, Layout
from nanochat.scaling import config_from_depth

H100 = GPUS["h100"]
SIZE = Size(depth=2, vocab_size=512, rows=2, length=32, accumulation=2)
D20 = config_from_depth(20, 32768, 2048)


# ---------------------------------------------------------------- counted


def rank(environment: dict[str, str], mode: str, out: str) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    with runtime.start("cpu", "float32", seed=0) as rt:
        layout = scale.layouts(rt.world, int(environment["LOCAL_WORLD_SIZE"]))[mode]
        found = measured(SIZE, layout, 1, rt)
        if mode == "shard":
            training = Training(SIZE, layout, rt)
            training.model.hidden(torch.zeros(1, 8, dtype=torch.int64))
            whole = [name for name, p in training.model.named_parameters() if not isinstance(p, DTensor)]
            found["whole"] = [name for name in whole if p_is_large(training.model.get_parameter(name))]
        if rt.is_main:
            Path(out).write_text(json.dumps(found), encoding="utf-8")


def p_is_large(parameter: torch.Tensor) -> bool:
    return parameter.numel() > 1000


@pytest.fixture(scope="module")
def counted(tmp_path_factory) -> dict[tuple[int, str], dict]:
    """What real ranks measure, by their number and mode."""
    found = {}
    for ranks, here, mode in ((2, 2, "replicate"), (2, 2, "shard"), (4, 2, "hybrid")):
        out = tmp_path_factory.mktemp("ranks") / "found.json"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        common = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(here), "MASTER_ADDR": "127.0.0.1",
                  "MASTER_PORT": port}  # fmt: skip
        own = [{**common, "RANK": str(n), "LOCAL_RANK": str(n % here)} for n in range(ranks)]
        children = [processes.Process(target=rank, args=(each, mode, str(out))) for each in own]
        for child in children:
            child.start()
        for child in children:
            child.join(300)
        assert [child.exitcode for child in children] == [0] * ranks
        found[ranks, mode] = json.loads(out.read_text(encoding="utf-8")) | {"layout": scale.layouts(ranks, here)[mode]}
    return found


@pytest.mark.parametrize("way", [(2, "replicate"), (2, "shard"), (4, "hybrid")])
def test_ranks_send_the_bytes_of_the_plan(counted, way) -> None:
    found, planned = counted[way], bench_scale.planned(SIZE, way[0], counted[way]["layout"])
    for kind, size in planned.items():
        assert found["bytes"].get(kind, 0) == pytest.approx(size, rel=0.02), kind
    assert found["bytes"]["small"] < 200  # losses, norms, counts
    assert 0 < found["communication"] < found["forward"] + found["backward"] + found["optimizer"]


def test_a_table_is_gathered_once_and_freed_before_the_next(counted) -> None:
    found = counted[2, "shard"]
    # In each micro-batch both blocks twice, one table of value embeddings, the embedding, and all else together.
    assert found["calls"]["weights"] == 2 * (2 * 2 + 1 + 1 + 1)
    assert found["whole"] == ["lm_head.weight", "bigram.weight"]


# ---------------------------------------------------------------- by hand


def test_time_is_bytes_over_bandwidth_and_hops() -> None:
    assert NETWORK.ring(8e9, 1, H100) == 0
    assert NETWORK.ring(8e9, 8, H100, calls=3) == pytest.approx(7 / 8 * 8 / 350 + 3 * (10 + 7 * 2) * 1e-6)
    far = 63 / 64 * 8 / 320 + (10 + 56 * 2 + 7 * 10) * 1e-6  # 8 cards of 50 GB/s, of which 80 % are reached
    assert NETWORK.ring(8e9, 64, H100) == pytest.approx(far)
    assert NETWORK.sums(1e9, 8) == pytest.approx(2 * 7 / 8 / 40 + (10 + 14 * 10) * 1e-6) and NETWORK.sums(1e9, 1) == 0
    assert NETWORK.swap(8e9, 8, H100) == pytest.approx(7 / 350 + 12e-6)
    assert NETWORK.swap(16e9, 16, H100) == pytest.approx(8 / 40 + 20e-6)


def test_a_step_in_parts_waits_for_its_ends_only() -> None:
    """d20 on a node of 8: what lies between is hidden, and sums over nodes too."""
    size, ends = cost.sizes(D20), 2 * 32768 * 1280
    assert size.looked_up == 10 * 32768 * 1280 + 32768 * 1280 and size.table == 32768 * 1280
    shard = scale.step(D20, H100, 32 * 2048, 1, 8, Layout("shard", 8))
    waited = 7 / 8 * (2 * ends + 2 * size.matrices / 20 + 2 * size.matrices / 20 + 4 * ends) / 350e9
    muon = 2 * 7 / 8 * 4 * size.matrices / 8 / 350e9
    latency = 6 * (10 + 7 * 2) * 1e-6 + 2 * round(4 * size.matrices / 2**25) * 12e-6  # Muon's 32 MiB at a time
    assert shard.exposed == pytest.approx(waited + muon + latency, rel=0.01)
    assert shard.sent == pytest.approx(7 / 8 * (6 * size.all + 2 * size.matrices + size.matrices), rel=1e-3)
    hybrid = scale.step(D20, H100, 32 * 2048, 1, 64, Layout("hybrid", 8))
    assert hybrid.sent == pytest.approx(shard.sent + 2 * 7 / 8 * 4 * size.all / 8, rel=1e-3)
    assert shard.seconds < hybrid.seconds < shard.seconds * 1.1
    assert hybrid.hidden == pytest.approx(hybrid.communication - hybrid.exposed)


def test_one_node_of_replicas_is_planned_as_before() -> None:
    """But for the latency of its buckets."""
    now = scale.step(D20, H100, 32 * 2048, 2, 8)
    assert now.seconds == pytest.approx(cost.step_seconds(D20, H100, 32 * 2048, 2, 8), rel=0.01)
    alone = scale.step(D20, H100, 32 * 2048, 2)
    assert alone.sent == alone.communication == 0 and alone.compute == alone.seconds


def test_a_checkpoint_takes_its_bytes_over_the_storages_bandwidth() -> None:
    size = cost.sizes(D20)
    whole = 4 * size.all + 4 * size.matrices + 8 * (size.all - size.matrices)
    replicated, parts = (scale.saving(D20, 64, layout) for layout in (Layout(), Layout("shard", 64)))
    assert replicated[:3] == parts[:3] == pytest.approx((whole, whole / 64 / 40e9, whole / 8 / 2e9))
    assert parts.load == pytest.approx(whole / 8 / 2e9)
    assert replicated.load == pytest.approx((4 * size.all + (whole - 4 * size.all) / 8) / 2e9)


def test_parts_need_less_memory_and_nodes_have_an_optimizer_each() -> None:
    memory = {n: cost.training_memory(D20, 8, 2048, ranks=64, parts=n) for n in (1, 8, 64)}
    totals = [sum(each.values()) for each in memory.values()]
    assert totals == sorted(totals, reverse=True)
    assert memory[8]["optimizer state"] == 8 * memory[64]["optimizer state"]
    # The output layer and two blocks; the ten tables of value embeddings come and go.
    held = 2 * (32768 * 1280 + 2 * cost.sizes(D20).matrices / 20)
    assert memory[8]["gathered weights"] == pytest.approx(held, rel=1e-3)
    again = cost.training_memory(D20, 8, 2048, ranks=64, parts=8, recompute=True)
    assert again["gathered weights"] == pytest.approx(held + 2 * 32768 * 1280, rel=1e-3)


def test_auto_replicates_until_padding_doubles_what_is_sent() -> None:
    taken = {}
    for ranks in (8, 64, 512):
        sent = {}
        for layout in scale.layouts(ranks, min(8, ranks)).values():
            sent[layout] = sum(scale.traffic(D20, 1, ranks, layout).values())
        taken[ranks] = scale.automatic(scale.layouts(ranks, min(8, ranks)), lambda parts: True, sent.__getitem__).mode
    assert taken == {8: "replicate", 64: "replicate", 512: "hybrid"}


def test_what_several_collectives_share_counts_once() -> None:
    assert covered([(5, 6), (0, 2), (1, 4), (1.5, 2)]) == 5


def test_the_prediction_has_a_row_for_each_mode_that_fits(capsys) -> None:
    table, found = bench_scale.predicted(bench_scale.Flags())
    assert "Assumed: nodes of 8 GPUs" in capsys.readouterr().out
    assert {(each["depth"], each["gpus"]) for each in found} == {(d, n) for d in (20, 34, 48) for n in (8, 64, 512)}
    assert len(table) == len(found) + 1 and all(len(row) == len(table[0]) for row in table)
    for each in found:
        assert each["memory"] < H100.memory and 0 < each["mfu"] < H100.mfu
        assert each["seconds"] == pytest.approx(each["compute"] + each["exposed"])
        rows = each["total_batch"] / (each["gpus"] * 2048)
        assert rows == each["rows"] * each["accumulation"]
