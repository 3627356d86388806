# A small GPT that writes Shakespeare letter by letter. First: python -m scripts.prepare shakespeare_char
# On a CPU: --device=cpu --compile=False --eval_iters=20 --block_size=64 --batch_size=12 --n_layer=4 --n_head=4
#           --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0

out_dir = "out-shakespeare-char"
dataset = "shakespeare_char"
wandb_project = "shakespeare-char"
wandb_run_name = "mini-gpt"

eval_interval = 250  # it soon knows so small a text by heart; what is best shows early
eval_iters = 200
log_interval = 10
always_save_checkpoint = False

n_layer = 6
n_head = 6
n_embd = 384
block_size = 256
dropout = 0.2

gradient_accumulation_steps = 1
batch_size = 64
learning_rate = 1e-3
min_lr = learning_rate / 10
max_iters = 5000
lr_decay_iters = max_iters
warmup_iters = 100
beta2 = 0.99  # a step has few tokens, so the second moment averages over more of them
