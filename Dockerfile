# One image for everything: Ray head and workers, MLflow, the API. The command decides which.
#
#   docker build -t lorafleet:0.1.0 .                                                      for CPUs
#   docker build -t lorafleet:0.1.0-gpu --build-arg TORCH_INDEX=https://pypi.org/simple .  PyTorch with CUDA (+5 GB)

FROM python:3.11.14-slim-bookworm AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY platform platform
COPY jobs jobs
COPY serve serve
RUN pip install --no-cache-dir --constraint constraints.txt hatchling \
    && pip wheel --no-cache-dir --no-build-isolation --no-deps --wheel-dir /wheels .

FROM python:3.11.14-slim-bookworm
# wget is for KubeRay's probes.
RUN apt-get update && apt-get install --yes --no-install-recommends wget && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 lorafleet && mkdir /data && chown lorafleet /data
COPY constraints.txt /etc/lorafleet/constraints.txt
# PyTorch first and from its own index: the one on PyPI brings CUDA along. The pins fit both builds.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN pip install --no-cache-dir --no-deps --index-url "${TORCH_INDEX}" \
    --constraint /etc/lorafleet/constraints.txt torch
COPY --from=wheel /wheels /tmp/wheels
RUN wheel=$(ls /tmp/wheels/lorafleet-*.whl) \
    && pip install --no-cache-dir --constraint /etc/lorafleet/constraints.txt "${wheel}[postgres]" \
    && pip check && lorafleet --help > /dev/null
USER lorafleet
WORKDIR /data
ENV LORAFLEET_HOME=/data/lorafleet \
    HF_HOME=/data/huggingface \
    RAY_AUTH_MODE=token \
    RAY_USAGE_STATS_ENABLED=0 \
    MLFLOW_DISABLE_TELEMETRY=true \
    PYTHONUNBUFFERED=1
EXPOSE 8000
# For the command below; the other services say their own.
HEALTHCHECK --interval=15s --timeout=10s --start-period=180s \
    CMD ["wget", "--quiet", "--output-document=/dev/null", "http://127.0.0.1:8000/readyz"]
CMD ["lorafleet", "serve", "--host", "0.0.0.0"]
