# GPT-2 with 124M parameters from scratch: to a loss of about 2.85 in some four days on 8 A100s. First:
#   python -m scripts.prepare openwebtext
#   torchrun --standalone --nproc_per_node=8 -m scripts.train config/train_gpt2.py

dataset = "openwebtext"
wandb_project = "owt"
wandb_run_name = "gpt2-124M"

# 12 windows x 1024 tokens x 40 micro-batches, about half a million tokens a step; 300 billion in all
batch_size = 12
block_size = 1024
gradient_accumulation_steps = 5 * 8
max_iters = 600000
lr_decay_iters = max_iters

weight_decay = 1e-1
eval_interval = 1000
eval_iters = 200
log_interval = 10
