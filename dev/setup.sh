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
if ! "$UV" sync; then
    echo "error: uv could not install the packages, see above; what was downloaded is kept for the next try" >&2
    exit 2
fi
