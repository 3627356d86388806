# OpenAI's GPT-2 learns to write Shakespeare. First: python -m scripts.prepare shakespeare
# The larger ones write better: --init_from=gpt2-medium, gpt2-large or gpt2-xl, as far as the memory goes.

init_from = "gpt2"
out_dir = "out-shakespeare"
dataset = "shakespeare"
wandb_project = "shakespeare"
wandb_run_name = "ft-shakespeare"

eval_interval = 5
eval_iters = 40
always_save_checkpoint = False  # only what is better than before

# 32 windows of 1024 tokens a step; the 302k tokens of the text are seen twice.
batch_size = 1
gradient_accumulation_steps = 32
max_iters = 20

learning_rate = 3e-5
decay_lr = False
