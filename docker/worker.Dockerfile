# Workers, Ray's head and the driver:  docker build -f docker/worker.Dockerfile -t tandem-worker:0.1.0 .
# The slim image is enough for GPUs: torch and NIXL bring CUDA's libraries, nodes bring the driver, of
# version 580 or later for CUDA 13. For older drivers build for CUDA 12, with the address of PyTorch's own
# index for CUDA 12.6: --build-arg CUDA=12 --build-arg TORCH_INDEX=...
# FlashInfer comes with --build-arg EXTRA=gpu. It compiles kernels on their first use, and there is no
# nvcc here, so FLASHINFER_SM names the GPUs for which compiled ones are installed: sm90a is Hopper.
ARG CUDA=13
FROM python:3.11-slim AS install
ARG CUDA
ARG TORCH_INDEX=
ARG EXTRA=
WORKDIR /app
COPY pyproject.toml docker/requirements.py ./
RUN python requirements.py worker pyproject.toml --cuda "$CUDA" --extra "$EXTRA" > requirements.txt \
 && pip install --no-cache-dir --prefix=/install ${TORCH_INDEX:+--extra-index-url $TORCH_INDEX} -r requirements.txt

FROM python:3.11-slim
ARG EXTRA=
ARG FLASHINFER_SM=sm90a
# A compiler for the kernels of CPUs, wget for the operator's probes, and what verbs need.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ wget libibverbs1 librdmacm1 ibverbs-providers libnuma1 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=install /install /usr/local
RUN if [ "$EXTRA" = gpu ]; then \
      python -m flashinfer install-jit-cache-wheel --sm "$FLASHINFER_SM" \
        --cuda-version "$(python -c 'import torch; print(torch.version.cuda)')"; \
    fi
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY wire ./wire
COPY kv_transfer ./kv_transfer
COPY grammar ./grammar
COPY checkpoint ./checkpoint
COPY runtime ./runtime
COPY engine ./engine
COPY worker ./worker
COPY prefill_worker ./prefill_worker
COPY decode_worker ./decode_worker
COPY router ./router
COPY cluster ./cluster
COPY models ./models
# Kernels for every CPU of this kind: no worker compiles when it starts.
RUN python -m engine.kernels
RUN pip install --no-cache-dir --no-deps . && useradd --uid 10001 --no-create-home tandem
# Whoever compiles for this machine (kernels for CPUs, Triton, FlashInfer) finds a folder that any user
# may write; a volume at /cache keeps it. GKE mounts the driver where only this path finds it.
RUN install --directory --mode=1777 /cache
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    TANDEM_CACHE_DIR=/cache/tandem TRITON_CACHE_DIR=/cache/triton FLASHINFER_WORKSPACE_BASE=/cache \
    LD_LIBRARY_PATH=/usr/local/nvidia/lib64
USER 10001
ENTRYPOINT []
CMD ["python", "-m", "cluster", "--help"]
