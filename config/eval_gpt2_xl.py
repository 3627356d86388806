# The loss of OpenAI's gpt2-xl (1558M parameters) on openwebtext. First: python -m scripts.prepare openwebtext

init_from = "gpt2-xl"
dataset = "openwebtext"
eval_only = True
eval_iters = 500
batch_size = 8
