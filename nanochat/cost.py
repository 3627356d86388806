"""What a model costs: parameters and floating-point operations."""

from nanochat.gpt import GPT, GPTConfig


def count_parameters(model: GPT) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def flops_per_token(config: GPTConfig) -> int:
    """Operations of a training step per token, forward and backward (Chowdhery et al. 2022, appendix B).

    6 per weight of every matrix product, and 12 * d per head and visible key for the two products of attention.
    """
    D, d = config.n_embd, config.head_size
    block = 2 * D * config.n_head * d + 2 * D * config.n_kv_head * d + 8 * D * D
    matrices = config.n_layer * block + config.padded_vocab * D
    keys = sum(
        min(config.window(layer) or config.sequence_len, config.sequence_len) for layer in range(config.n_layer)
    )
    return 6 * matrices + 12 * config.n_head * d * keys
