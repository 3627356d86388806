# Sourced from the repository's root: sets $UV to a uv that works here, and installs everything into .venv.
# A uv on the path is taken; without one, or with one too old, uv is installed with pip into the private venv .uv.
unset VIRTUAL_ENV # an activated environment is not ours, and uv would warn about it

usable_uv() { # one older than pyproject.toml asks for does not answer with our own version
    [[ "$("$1" version 2>/dev/null)" == "nanochat "* ]]
}

UV=$(command -v uv || true)
if ! usable_uv "$UV"; then
    UV=$PWD/.uv/bin/uv
    if ! usable_uv "$UV"; then
        PYTHON=$(command -v python3 || command -v python || true)
        if [ -z "$PYTHON" ]; then
            echo "error: found neither uv nor python3; install one of them and start again" >&2
            exit 2
        fi
        echo "installing uv into .uv"
        if ! "$PYTHON" -m venv --clear .uv >/dev/null 2>&1; then
            echo "error: '$PYTHON -m venv' does not work here; install it (on Debian and Ubuntu the package" \
                "python3-venv) or uv itself and start again" >&2
            exit 2
        fi
        if ! .uv/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9; then
            echo "error: pip could not install uv; check the network and start again" >&2
            exit 2
        fi
    fi
fi

# uv names some hundred packages, in a log. A terminal shows the log's last line, so that one sees something happen.
SETUP_LOG=.cache/setup.log
mkdir -p .cache
show_setup() {
    local seconds=0 line
    sleep 2 >/dev/null 2>&1 # which outlives this by moments, and must not hold a pipe open; all installed, uv is done by now
    echo "setting up .venv (the first time that takes some minutes and 6 GB); uv's output is in $SETUP_LOG"
    while [ -t 1 ] && kill -0 $$ 2>/dev/null; do
        line=$(tail -n 1 "$SETUP_LOG" 2>/dev/null | tr -cd '[:print:]' | cut -c -60)
        printf '\r\033[K  %ds  %s' "$((seconds += 1))" "$line"
        sleep 1 >/dev/null 2>&1
    done
}
show_setup &
SHOWING=$!
SETUP_CODE=0
"$UV" sync >"$SETUP_LOG" 2>&1 || SETUP_CODE=$?
kill "$SHOWING" 2>/dev/null || true
wait "$SHOWING" 2>/dev/null || true
if [ -t 1 ]; then printf '\r\033[K'; fi
if [ "$SETUP_CODE" != 0 ]; then
    tail -n 40 "$SETUP_LOG" >&2
    echo "error: uv could not install the packages, see above and $SETUP_LOG; what was downloaded is kept for the next try" >&2
    exit 2
fi
