"""The recipe of an experiment, and the one file that an agent edits: docs/guides/agents.md.

This file never trains anything. It runs in the sandbox, and what it defines comes out as numbers, which are checked
against the bounds in the experiment's file and given to the training stage as flags.
"""

WARMUP, WARMDOWN, LOWEST = 0.03, 0.3, 0.05  # fractions of the run, and of the peak

FLAGS = {
    "matrix_lr": 0.16,
    "embedding_lr": 1.7,
    "unembedding_lr": 0.06,
    "weight_decay": 0.28,
}


def learning_rate(progress: float) -> float:
    """Factor on every learning rate when this fraction of the run, from 0 to 1, is done."""
    if progress < WARMUP:
        return max(0.01, progress / WARMUP)
    remaining = 1 - progress
    return 1.0 if remaining >= WARMDOWN else LOWEST + (1 - LOWEST) * remaining / WARMDOWN
