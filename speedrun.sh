#!/usr/bin/env bash
# From text to a chat model with one command, on any machine: bash speedrun.sh [--dry_run]
#
#   RECIPE=auto    the one that was started here; else real with GPUs of 40 GB and a Hugging Face hub; else tiny
#          tiny    the little world, on this machine as it is
#          real    web text, public conversations and exams; scripts.plan predicts two hours on eight H100
#   PRESET=smoke   all stages in two or three minutes, to see that they work; use another NANOCHAT_BASE_DIR for it
#          long    the little world in about an hour: a deeper model that sees more
#   DEPTH=20       layers of the real recipe's model, which set all its other sizes
#   GPUS=n         number of GPUs, and of processes that train; default: all that are there
#   GPU=x          for --dry_run: their model, such as h100 (python -m scripts.plan --help lists them)
#   RL=1           reinforcement learning on GSM8K after SFT
#   IDENTITY=x     the name by which the real recipe's model knows itself
#   CORE_BUNDLE=x  a folder or zip file with CORE's questions, where they cannot be fetched
#   REAL_…, TINY_… sizes of a recipe's parts, at the top of scripts/speedrun.py; REAL_ROWS=8 where memory runs out
#   DRY_RUN=1      print the plan and stop, like --dry_run
#   WANDB_RUN=x    show the metrics in Weights & Biases, too
#   NANOCHAT_PYTHON=x   use this Python and its packages instead of setting up an environment with uv
#
# Killed at any moment, it resumes when it is started again: finished stages are skipped, and training resumes from its
# last checkpoint. A changed command runs anew, and so does everything after it. It replaces only what it has written
# itself, and never a tokenizer that some model needs; where these are in the way, it stops and says why.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

main() { # a function, so that bash has read it all before anything runs; the file may be updated meanwhile
    case " $* " in *' --help '* | *' -h '*) sed -n '2,/^set /{s/^# \{0,1\}//p;}' speedrun.sh && exit ;; esac
    python=${NANOCHAT_PYTHON:-}
    if [ -z "$python" ]; then
        source dev/setup.sh
        python=.venv/bin/python
        export UV # for the command to chat with that is printed at the end
    fi
    unset PYTHONDONTWRITEBYTECODE # with it, as container images like to set it, every stage compiles torch's sources anew: 5 s
    exec "$python" -m scripts.speedrun "$@"
}

main "$@"
