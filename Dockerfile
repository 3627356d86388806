# Serves a trained model on a page and by an API. Build: docker build -t nanochat .
# Run: docker run --rm -p 127.0.0.1:8000:8000 -v ~/.cache/nanochat:/models:ro nanochat
FROM python:3.12-slim AS build
RUN pip install --no-cache-dir uv
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY nanochat nanochat
COPY scripts scripts
COPY tasks tasks
COPY extras extras
# PyTorch for CPUs is a tenth of the one with CUDA: --build-arg TORCH=auto takes what suits the machine that builds.
ARG TORCH=cpu
RUN uv venv /venv && VIRTUAL_ENV=/venv uv pip install --no-cache --compile-bytecode \
    --torch-backend="$TORCH" .

FROM python:3.12-slim
RUN useradd --create-home --uid 1000 nanochat
COPY --from=build /venv /venv
ENV PATH=/venv/bin:$PATH NANOCHAT_BASE_DIR=/models PYTHONUNBUFFERED=1
USER nanochat
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
# SIGTERM lets running replies end, see --drain_seconds.
STOPSIGNAL SIGTERM
ENTRYPOINT ["python", "-m", "scripts.chat_web"]
CMD ["--host", "0.0.0.0", "--source", "sft"]
