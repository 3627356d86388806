#!/usr/bin/env bash
# Trains on several nodes of a Slurm cluster. From the checkout, which all nodes must see and dev/setup.sh has prepared:
#     sbatch --nodes=4 dev/launch/slurm.sh -m scripts.base_train --depth=34 --device_batch_size=4
# The same command again resumes the run.
#SBATCH --job-name=nanochat
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1       # torchrun, which starts a rank for each GPU
#SBATCH --gpus-per-node=8
#SBATCH --exclusive
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120         # two minutes before that the run saves and ends
#SBATCH --requeue                 # after the loss of a node Slurm starts the job on others, and the run resumes
#SBATCH --open-mode=append
#SBATCH --output=nanochat-%j.log
set -euo pipefail

: "${NANOCHAT_BASE_DIR:?set it to a folder that all nodes share, for data and checkpoints}"
export NANOCHAT_BASE_DIR
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # or torchrun cannot continue with a node that was restarted
export TORCH_CPP_LOG_LEVEL=ERROR # or torch prints a page about each connection to a rank that has ended
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
export PATH=$PATH:$PWD/.uv/bin # where dev/setup.sh puts uv, if there is no other

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 20000)) # jobs that share a node do not meet

# A rank that crashes is started again with all others, at most --max_restarts times, from the last checkpoint.
exec srun --kill-on-bad-exit=1 uv run --no-sync torchrun \
    --nnodes="$SLURM_JOB_NUM_NODES" --nproc_per_node="${RANKS_PER_NODE:-gpu}" --max_restarts=3 --shutdown_timeout=100 \
    --rdzv_backend=c10d --rdzv_id="$SLURM_JOB_ID.${SLURM_RESTART_COUNT:-0}" --rdzv_endpoint="$head:$port" \
    "$@"
