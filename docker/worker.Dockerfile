# Workers, Ray's head and the driver:  docker build -f docker/worker.Dockerfile -t tandem-worker:0.1.0 .
# The slim image is enough for GPUs: torch and NIXL bring CUDA's libraries, nodes bring the driver.
FROM python:3.11-slim AS install
WORKDIR /app
COPY pyproject.toml docker/requirements.py ./
RUN python requirements.py worker pyproject.toml > requirements.txt \
 && pip install --no-cache-dir --prefix=/install -r requirements.txt

FROM python:3.11-slim
# A compiler for the kernels of CPUs, wget for the operator's probes, and what verbs need.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ wget libibverbs1 librdmacm1 ibverbs-providers libnuma1 \
 && rm -rf /var/lib/apt/lists/*
COPY --from=install /install /usr/local
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
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
ENTRYPOINT []
CMD ["python", "-m", "cluster", "--help"]
