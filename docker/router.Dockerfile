# A router, without torch and Ray:  docker build -f docker/router.Dockerfile -t tandem-router:0.1.0 .
FROM python:3.11-slim AS install
WORKDIR /app
COPY pyproject.toml docker/requirements.py ./
RUN python requirements.py router pyproject.toml > requirements.txt \
 && pip install --no-cache-dir --prefix=/install -r requirements.txt

FROM python:3.11-slim
COPY --from=install /install /usr/local
WORKDIR /app
COPY pyproject.toml README.md LICENSE ./
COPY wire ./wire
COPY kv_transfer ./kv_transfer
COPY grammar ./grammar
COPY checkpoint ./checkpoint
COPY runtime ./runtime
COPY router ./router
COPY models ./models
RUN pip install --no-cache-dir --no-deps . && useradd --uid 10001 --no-create-home tandem
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001
ENTRYPOINT []
CMD ["python", "-m", "router", "--help"]
