#!/usr/bin/env bash
# From text to a chat model with one command, on any machine: bash speedrun.sh [--dry_run]
#
#   RECIPE=auto    what was begun; else real where there are GPUs of 40 GB and a Hugging Face hub answers; else tiny
#          tiny    the little world, on this machine as it is
#          real    web text, public conversations and exams; scripts.plan predicts two hours on eight H100
#   PRESET=smoke   the recipe within a minute or two: every stage works, and the model has learned nothing
#   DEPTH=20       layers of the real recipe's model, on which all its sizes depend
#   GPUS=n         how many GPUs, and processes that train; default: those that are there
#   GPU=x          for --dry_run: which they are, such as h100 (python -m scripts.plan knows more)
#   RL=1           after SFT also reinforcement learning, on GSM8K
#   IDENTITY=x     the name by which the real recipe's model knows itself
#   CORE_BUNDLE=x  a folder or zip file with CORE's questions, where they cannot be fetched
#   REAL_…         sizes of the real recipe's parts, see real() below; REAL_ROWS=8 where memory runs out
#   DRY_RUN=1      print the plan and stop, like --dry_run
#   WANDB_RUN=x    show the metrics in Weights & Biases, too
#   NANOCHAT_PYTHON=x   use this Python and its packages instead of setting up an environment with uv
#
# Killed at any moment, it resumes when it is started again: finished stages are skipped, and training resumes from its
# last checkpoint. A changed command runs anew, and so does everything after it. It replaces only what it has written
# itself, and never a tokenizer that some model needs; where these are in the way, it stops and says why.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

tiny() {
    local train=()
    if [ "${PRESET:-full}" = smoke ]; then
        : "${TINY_DOCUMENTS:=2000}" "${TINY_VOCAB:=512}" "${TINY_CONTEXT:=128}" "${TINY_DEPTH:=1}" "${TINY_ROWS:=4}"
        : "${TINY_BASE_STEPS:=6}" "${TINY_MID_STEPS:=4}" "${TINY_SFT_STEPS:=4}" "${TINY_SAVE_EVERY:=2}"
        : "${TINY_EVAL_TOKENS:=2048}" "${TINY_PROBLEMS:=2}"
        train=(--no-compile)
    fi
    local rows=${TINY_ROWS:=16} context=${TINY_CONTEXT:=256} source
    tag=d${TINY_DEPTH:=4}
    local eval_tokens=--eval_tokens=${TINY_EVAL_TOKENS:=65536}
    train+=(--save_every="${TINY_SAVE_EVERY:=100}" --eval_every=300 "$eval_tokens")
    stage data 'base_data_tinyworld/*.parquet' -m tasks.littleworld --num_documents="${TINY_DOCUMENTS:=60000}"
    stage tok_train 'tokenizer/tokenizer.json' -m scripts.tok_train --vocab_size="${TINY_VOCAB:=4096}"
    stage tok_eval '' -m scripts.tok_eval
    stage base_train "base_checkpoints/$tag/meta_*.json" -m scripts.base_train --depth="$TINY_DEPTH" \
        --head_dim=64 --max_seq_len="$context" --device_batch_size="$rows" --total_batch_size="$((rows * context))" \
        --matrix_lr=0.16 --embedding_lr=1.7 --unembedding_lr=0.06 --warmup_steps=10 --warmdown_ratio=0.3 \
        --num_iterations="${TINY_BASE_STEPS:=300}" "${train[@]}"
    stage base_eval '' -m scripts.base_eval --model_tag="$tag" --device_batch_size="$rows" "$eval_tokens"
    stage mid_train "mid_checkpoints/$tag/meta_*.json" -m scripts.mid_train --model_tag="$tag" \
        --text_share=0.2 --warmdown_ratio=0.3 --final_lr_frac=0.5 --num_iterations="${TINY_MID_STEPS:=600}" "${train[@]}"
    stage chat_sft "chatsft_checkpoints/$tag/meta_*.json" -m scripts.chat_sft --model_tag="$tag" \
        --target_examples_per_step="$rows" --init_lr_frac=0.5 --eval_metrics_every=-1 \
        --num_iterations="${TINY_SFT_STEPS:=1400}" "${train[@]}"
    for source in base mid sft; do
        stage "chat_eval_$source" '' -m scripts.chat_eval --source="$source" --model_tag="$tag" \
            --batch_size=64 --max_problems="${TINY_PROBLEMS:=1000}"
    done
}

real() { # modern nanochat's pretraining, classic nanochat's mid-training and SFT
    local train evaluate score learn source
    if [ "${PRESET:-full}" = smoke ]; then
        : "${DEPTH:=1}" "${REAL_SHARDS:=2}" "${REAL_VOCAB:=512}" "${REAL_CONTEXT:=256}" "${REAL_ROWS:=4}"
        : "${REAL_STEPS:=4}" "${REAL_EVAL_TOKENS:=2048}" "${REAL_SAVE_EVERY:=2}" "${REAL_PROBLEMS:=4}"
        : "${REAL_MAX_NEW_TOKENS:=32}"
    fi
    tag=d${DEPTH:=20}
    local rows=$((DEPTH <= 14 ? 32 : DEPTH <= 20 ? 16 : DEPTH <= 26 ? 8 : 4)) # fit 80 GB (scripts.plan)
    rows=${REAL_ROWS:=$rows}
    local dataset=${REAL_DATASET:=climbmix} problems=${REAL_PROBLEMS:-}
    case $dataset in climbmix | fineweb-edu) ;; *) die "REAL_DATASET is $dataset; expected climbmix or fineweb-edu" ;; esac
    local shards="base_data_$dataset/shard_*.parquet" fetch=(-m nanochat.data.shards --dataset="$dataset")
    train=(--save_every="${REAL_SAVE_EVERY:=250}")
    [ -z "${REAL_STEPS:-}" ] || train+=(--num_iterations="$REAL_STEPS" --no-compile)
    [ -z "${REAL_EVAL_TOKENS:-}" ] || train+=(--eval_tokens="$REAL_EVAL_TOKENS")
    evaluate=(--model_tag="$tag" --eval=core,bpb,sample)
    [ -z "${REAL_EVAL_TOKENS:-}" ] || evaluate+=(--eval_tokens="$REAL_EVAL_TOKENS")
    [ -z "$problems" ] || evaluate+=(--max_per_task="$problems")
    [ -z "${CORE_BUNDLE:-}" ] || evaluate+=(--bundle="$CORE_BUNDLE")
    score=(--model_tag="$tag" --batch_size=32 --max_new_tokens="${REAL_MAX_NEW_TOKENS:=512}")
    [ -z "$problems" ] || score+=(--max_problems="$problems")
    learn=(--model_tag="$tag" --task=GSM8K --init_lr_frac=0.05 --warmdown_ratio=1 --top_k=50
        --save_every="$REAL_SAVE_EVERY" --num_iterations="${REAL_STEPS:--1}" --max_new_tokens="$REAL_MAX_NEW_TOKENS")
    if [ -n "$problems" ]; then
        learn+=(--examples_per_step=2 --num_samples=2 --eval_examples="$problems")
    else
        learn+=(--examples_per_step=16 --num_samples=16)
    fi

    # The tokenizer reads eight shards of 250 million characters; the others come while it trains, and one before, so
    # that it never depends on how far they are.
    stage data "$shards" "${fetch[@]}" --num_shards="$((${REAL_SHARDS:=170} < 9 ? REAL_SHARDS : 9))"
    ahead more_data "${fetch[@]}" --num_shards="$REAL_SHARDS"
    stage tok_train 'tokenizer/tokenizer.json' -m scripts.tok_train --dataset="$dataset" \
        --vocab_size="${REAL_VOCAB:=32768}" --max_chars=2000000000
    stage tok_eval '' -m scripts.tok_eval --dataset="$dataset"
    stage more_data "$shards" "${fetch[@]}" --num_shards="$REAL_SHARDS"
    processes=$gpus at_once=$rows stage base_train "base_checkpoints/$tag/meta_*.json" -m scripts.base_train \
        --dataset="$dataset" --depth="$DEPTH" --max_seq_len="${REAL_CONTEXT:=2048}" "${train[@]}"
    processes=$gpus at_once=$rows stage base_eval '' -m scripts.base_eval "${evaluate[@]}"
    identity
    processes=$gpus at_once=$rows stage mid_train "mid_checkpoints/$tag/meta_*.json" -m scripts.mid_train \
        --model_tag="$tag" --conversations=real --text_share=0 "${train[@]}"
    processes=$gpus at_once=$((rows < 4 ? rows : 4)) stage chat_sft "chatsft_checkpoints/$tag/meta_*.json" \
        -m scripts.chat_sft --model_tag="$tag" --conversations=real --target_examples_per_step=32 "${train[@]}"
    for source in mid sft ${RL:+rl}; do
        [ $source != rl ] || processes=$gpus at_once=$rows stage chat_rl "chatrl_checkpoints/$tag/meta_*.json" \
            -m scripts.chat_rl "${learn[@]}"
        processes=$gpus stage "chat_eval_$source" '' -m scripts.chat_eval --source="$source" "${score[@]}"
    done
}

identity() { # who the model is: conversations of the user's own, which are never touched, or else made here
    local file=$NANOCHAT_BASE_DIR/identity_conversations.jsonl
    if [ -e "$file" ] && [ "$(cksum <"$file")" != "$(cat "$marks/identity.sum" 2>/dev/null)" ]; then
        history+="identity_conversations.jsonl $(cksum <"$file")"$'\n'
        return
    fi
    stage identity identity_conversations.jsonl -m scripts.make_identity --name="${IDENTITY:=nanochat}" --overwrite
    [ -n "$list" ] || cksum <"$file" >"$marks/identity.sum"
}

# NAME FILES ARGUMENTS...: run python with ARGUMENTS, unless that is done and its FILES are there. With processes=n in
# front on that many of them, with at_once=n with that many rows on each: a run resumes with other numbers, too.
stage() {
    local name=$1 files=$2 section=report/$1.json state='to do' extra=() code=0 found='' mine=''
    shift 2
    history+="python $*"$'\n'
    [ -z "${at_once:-}" ] || set -- "$@" --device_batch_size="$at_once"
    if [ "${processes:-1}" -gt 1 ]; then
        set -- -m torch.distributed.run --standalone --nproc_per_node="$processes" "$1" "$2" -- "${@:3}"
    fi
    if marked "$name" started; then state=resumes; fi
    case $name in data | more_data | identity) section=$files ;; esac # these write none
    if marked "$name" "done" && compgen -G "$NANOCHAT_BASE_DIR/${files:-$section}" >/dev/null &&
        compgen -G "$NANOCHAT_BASE_DIR/$section" >/dev/null; then state='done'; fi
    if [ "$name" = tok_train ] && [ "$state" = 'done' ]; then # somebody may have trained another one since
        found=$(noted tok_train "done")
        [ -z "$found" ] || [ "$found" = "$(sums "$files")" ] || state=resumes
    fi
    if [ -n "$list" ]; then
        printf '%s\t%s\tpython %s\n' "$name" "$state" "$*"
        return
    fi
    if [ "$state" = 'done' ]; then
        echo "$name is done"
        return
    fi
    case $name in
    base_train | mid_train | chat_sft | chat_rl)
        found=$(sums "$files")
        [ -n "$(without "$found" "$(noted "$name" left)")" ] || mine=1
        start_or_resume
        extra+=(--run="${WANDB_RUN:-dummy}")
        ;;
    *) [ "$state" = resumes ] || mark "$name" started ;;
    esac
    if [ "$name" = more_data ] && [ -n "$fetching" ]; then
        echo "waiting for the rest of the data; $marks/more_data.log says how far it is"
        wait "$fetching" || true # what went wrong is tried again and said below
        fetching=
    fi
    printf '\n== %s\n   python %s\n' "$name" "$*"
    rm -f "$marks/$name.done"
    case " ${extra[*]-} " in *' --resume=auto '*) ;; *) rm -f "$NANOCHAT_BASE_DIR/report/$name.json" ;; esac
    # In the background, because bash hears a signal at once only while it waits.
    "$python" "$@" ${extra[@]+"${extra[@]}"} &
    child=$!
    wait "$child" || code=$?
    left_behind
    child=
    [ "$code" -eq 0 ] || failed "$name" "$code"
    rm -f "$marks/$name.failed"
    if [ "$name" = tok_train ]; then mark "$name" "done" "$(sums "$files")"; else mark "$name" "done"; fi
}

# Decide what a training stage does with the checkpoints it finds, by checksums, because times change when a folder is
# copied or a clock is set: NAME.started notes the checkpoints that its present command replaces, NAME.left those that
# were there when the stage last ended. Only what NAME.left proves to be this script's own may be overwritten.
start_or_resume() {
    local old='' fresh
    if [ "$state" = resumes ]; then
        old=$(noted "$name" started)
    elif [ -e "$marks/$name.started" ]; then # with another command
        [ -n "$mine" ] && marked "$name" left || old=$found
    fi
    [ "$state" = resumes ] || mark "$name" started "$old"
    fresh=$(without "$found" "$old")
    if [ "$fresh" = "$found" ]; then # nothing to replace; the stage refuses to resume another run
        extra=(--resume=auto)
    elif [ -z "$fresh" ]; then
        extra=(--resume=never)
        [ -z "$mine" ] || extra+=(--overwrite)
    else # killed between its first save and the end of what that replaces
        extra=(--resume="$(last_step "$fresh")")
    fi
}

# Note what a training stage leaves, if everything that lay there before was proven to be this script's own.
left_behind() {
    [ -n "$mine" ] || return 0
    [ "$(sums "$files")" = "$found" ] || mark "$name" left "$(sums "$files")"
}

failed() { # NAME CODE: say what helps, and stop
    local now again parent=''
    case $1 in
    base_eval | mid_train | chat_eval_base) parent=base_train ;;
    chat_sft | chat_eval_mid) parent=mid_train ;;
    chat_rl | chat_eval_sft) parent=chat_sft ;;
    esac
    # Its checkpoint may be damaged. Started again, a finished stage ends at once, or falls back to the one before.
    [ "$2" != 2 ] || [ -z "$parent" ] || rm -f "$marks/$parent.done"
    now="$history$2 $(sums '*_checkpoints/*/meta_*.json')"
    again=$([ "$now" != "$(cat "$marks/$1.failed" 2>/dev/null)" ] || echo 1)
    printf '%s' "$now" >"$marks/$1.failed"
    case $2 in
    129 | 130 | 143) echo "$1 was stopped; start speedrun.sh again to resume" ;;
    *)
        if [ -n "$again" ]; then
            echo "$1 ended with code $2, as it did the last time; resolve the error above before starting" \
                "speedrun.sh again"
        elif [ "$2" = 2 ] && [ "${extra[0]-}" = --resume=never ] && [ -z "$mine" ]; then
            echo "$1 ended with code 2, because this script cannot prove that it wrote ${files%/*}: move that folder away," \
                "or run the command above with --overwrite, then start speedrun.sh again"
        elif [ "$2" = 2 ]; then
            echo "$1 ended with code 2; resolve the error above, then start speedrun.sh again to resume from here"
        else
            echo "$1 ended with code $2; start speedrun.sh again to resume from here"
        fi
        ;;
    esac >&2
    stop "$2"
}

ahead() { # NAME ARGUMENTS...: begin in the background what a later stage of that name asks for
    local name=$1
    shift
    [ -z "$list" ] && [ ! -e "$marks/$name.done" ] || return 0
    "$python" "$@" >"$marks/$name.log" 2>&1 &
    fetching=$!
}

# A mark holds the commands up to and with the stage's own, and notes: lines that begin with "# ".
marked() { # NAME KIND: whether the mark is there and of these commands
    [ "$(sed '/^# /d' "$marks/$1.$2" 2>/dev/null)" = "${history%$'\n'}" ]
}

noted() { sed -n 's/^# //p' "$marks/$1.$2" 2>/dev/null || true; } # NAME KIND: the notes of a mark

mark() { # NAME KIND [NOTES]: by rename, so that a mark is whole or not there
    { printf '%s' "$history" && [ -z "${3:-}" ] || sed 's/^/# /' <<<"$3"; } >"$marks/$1.$2.new"
    mv "$marks/$1.$2.new" "$marks/$1.$2"
}

sums() { # PATTERN: checksum, size and name of each file, from the base folder on
    (cd "$NANOCHAT_BASE_DIR" && compgen -G "$1" | LC_ALL=C sort | while IFS= read -r file; do cksum "$file"; done) || true
}

last_step() { # LINES: the highest step of the meta files in lines of `sums`
    local step
    step=$(sed 's/.*meta_//; s/\.json$//' <<<"$1" | sort -n | tail -1)
    echo "$((10#$step))"
}

without() { # LINES OTHERS: the lines that are not among the others
    [ -z "$1" ] || grep -vxFf <(printf '%s\n' "$2") <<<"$1" || true
}

stop() { # CODE: tell the running stage to save and end, then end with CODE
    local running
    trap '' HUP INT TERM
    for running in $child $fetching; do
        kill -TERM "$running" 2>/dev/null || true
        wait "$running" || true
    done
    [ -z "$child" ] || left_behind
    exit "$1"
}

die() {
    echo "error: $*" >&2
    exit 2
}

number() { # NAME VALUE: refuse what arithmetic would stumble over
    case $2 in '' | 0* | *[!0-9]* | ?????????*) die "$1 is $2; expected a number, such as 8" ;; esac
}

main() { # a function, so that bash has read it all before anything runs; the file may be updated meanwhile
    dry_run=${DRY_RUN:-} list='' history='' child='' fetching='' where='' tag=''
    for option in "$@"; do
        case $option in
            --dry_run | --dry-run) dry_run=1 ;;
            --help | -h) sed -n '2,/^set /{s/^# \{0,1\}//p;}' speedrun.sh && exit ;;
            --list) list=1 ;; # name, state and command of each stage, for scripts/plan.py
            *) die "unknown option $option; there is --dry_run, and RECIPE=tiny or RECIPE=real in front of bash" ;;
        esac
    done
    case ${PRESET:-full} in full | smoke) ;; *) die "PRESET is $PRESET; expected full or smoke" ;; esac
    [ -z "${NANOCHAT_BASE_DIR:-}" ] || where="NANOCHAT_BASE_DIR=$(printf %q "$NANOCHAT_BASE_DIR") "
    export NANOCHAT_BASE_DIR=${NANOCHAT_BASE_DIR:-$HOME/.cache/nanochat}
    marks=$NANOCHAT_BASE_DIR/speedrun

    memories=$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits 2>/dev/null || true) # MiB, a GPU a line
    there=$(grep -c '^[0-9]' <<<"$memories" || true)
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        there=$(tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c '^ *[0-9GM]' || true) # numbers, or names such as GPU-… and MIG-…
    fi
    gpus=${GPUS:-$there}
    [ "$gpus" = 0 ] || number GPUS "$gpus"
    for name in DEPTH REAL_ROWS REAL_SHARDS; do number "$name" "${!name:-1}"; done
    begun=$(cat "$marks/recipe" 2>/dev/null || true)
    recipe=${RECIPE:-auto}
    if [ "$recipe" = auto ]; then # what is begun resumes, also while the hub is out of reach
        recipe=${begun:-tiny}
        if [ -z "$begun" ] && [ "$there" -gt 0 ] && [ "$(sort -n <<<"$memories" | head -1)" -ge 40000 ] &&
            curl -sfIL --max-time 5 -o /dev/null "${HF_ENDPOINT:-https://huggingface.co}"; then
            recipe=real
        fi
    fi
    case $recipe in tiny | real) ;; *) die "RECIPE is $recipe; expected auto, tiny or real" ;; esac
    if [ -n "$list" ]; then
        ("$recipe") # by itself, so that nothing in it can lead on to what is below
        exit
    fi

    if [ "$recipe" = tiny ]; then
        for name in DEPTH RL IDENTITY CORE_BUNDLE; do
            [ -z "${!name:-}" ] || echo "$name=${!name} belongs to RECIPE=real; this is the tiny recipe" >&2
        done
    fi
    python=${NANOCHAT_PYTHON:-} chat=$(printf %q "${NANOCHAT_PYTHON:-}")
    if [ -z "$python" ]; then
        source dev/setup.sh
        python=.venv/bin/python
        chat="$([ "$UV" = "$(command -v uv || true)" ] && echo uv || echo .uv/bin/uv) run python"
    fi
    planned=(--recipe="$recipe")
    [ -z "${GPU:-}" ] || planned+=(--gpu="$GPU")
    [ "${GPUS:-0}" = 0 ] || planned+=(--gpus="$GPUS")
    "$python" -m scripts.plan "${planned[@]}"
    [ -z "$dry_run" ] || exit 0
    [ "$there" = 0 ] || [ "$gpus" -le "$there" ] || die "GPUS is $gpus, but this machine has $there"
    [ "${begun:-$recipe}" = "$recipe" ] || die "$NANOCHAT_BASE_DIR holds a run of the $begun recipe, whose tokenizer" \
        "and models the $recipe recipe would replace; set NANOCHAT_BASE_DIR to another folder"

    # Other models may need the tokenizer that this recipe would replace; refuse now, not after the download.
    IFS=$'\t' read -r _ state command < <(list=1 && "$recipe" | grep '^tok_train')
    # shellcheck disable=SC2086 # these are several words
    [ "$state" = 'done' ] || "$python" ${command#python } --check || exit

    # malloc keeps its pages and asks for huge ones: training on a CPU is faster by a sixth (dev/LOG.md).
    export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736:glibc.malloc.hugetlb=1}
    # What one stage compiled is there for the next, and after a kill.
    export TORCHINDUCTOR_CACHE_DIR=${TORCHINDUCTOR_CACHE_DIR:-$NANOCHAT_BASE_DIR/compiled}

    mkdir -p "$marks"
    if command -v flock >/dev/null; then # a stage inherits the lock, so one that outlived its speedrun.sh still holds it
        exec 9>"$marks/lock"
        flock -n 9 || { echo "waiting for the speedrun that is at work in $NANOCHAT_BASE_DIR" && flock 9; }
    fi
    echo "$recipe" >"$marks/recipe.new" && mv "$marks/recipe.new" "$marks/recipe"
    trap 'stop 129' HUP
    trap 'stop 130' INT
    trap 'stop 143' TERM
    "$recipe"

    echo
    "$python" -m scripts.report
    chat="$where$chat -m scripts.chat_cli --source=sft --model_tag=$tag"
    chat+=" --step=$(last_step "$(sums "chatsft_checkpoints/$tag/meta_*.json")")"
    printf '\nTo chat with the model:\n\n    %s\n    %s\n' "$chat" "$chat -p \"What is 123 + 456?\""
}

main "$@"; exit
