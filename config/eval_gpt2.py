# The loss of OpenAI's gpt2 (124M parameters) on openwebtext. First: python -m scripts.prepare openwebtext

init_from = "gpt2"
dataset = "openwebtext"
eval_only = True
eval_iters = 500
batch_size = 8
