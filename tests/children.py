"""Child processes, forked from one that has imported everything heavy already, so that starting one costs little."""

import multiprocessing

HEAVY = (
    "nanochat.data.prepare", "nanochat.data.texts", "nanochat.engine.serving", "nanochat.eval.accuracy",
    "extras.nanogpt.training", "nanochat.train.rollouts", "nanochat.train.stage", "tasks.recipes",
    "tasks.littleworld.conversations",
)  # fmt: skip
# With these comes half of torch's compiler; each rank would take seconds to import it.
RANKS = ("nanochat.sharded", "torch.distributed.checkpoint", "torch._dynamo")
TESTS = ("tests.chaosruns", "hypothesis.strategies", "pytest")
SCRIPTS = ("base_train", "mid_train", "chat_sft", "chat_dpo", "chat_rl", "train", "inference_server", "sample")

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload([*HEAVY, *RANKS, *TESTS, *(f"scripts.{name}" for name in SCRIPTS)])
