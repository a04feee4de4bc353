# Three images of one project:  docker build --target serve -t hardrank-serve .   (or audit, or train)
# serve has no torch. All run as user 10001 with a read-only root; what lasts lies in the volume /data.
ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS python
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 python3-venv ca-certificates \
    && rm -rf /var/lib/apt/lists/*
RUN useradd --uid 10001 --home-dir /data --create-home --shell /usr/sbin/nologin hardrank
ENV PATH=/opt/hardrank/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 PIP_NO_CACHE_DIR=1

FROM python AS serve-build
RUN python3 -m venv /opt/hardrank
COPY .ci/lock.txt .ci/container/serve.txt /tmp/ci/
RUN grep -v '^onnxruntime-gpu\|^faiss-gpu' /tmp/ci/lock.txt > /tmp/lock.txt \
    && pip install -q -c /tmp/lock.txt -r /tmp/ci/serve.txt
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY models models
COPY trainer trainer
COPY serving serving
COPY audit_app audit_app
RUN pip install -q --no-deps .

FROM serve-build AS torch-build
COPY .ci/container/torch.txt /tmp/ci/
RUN pip install -q -c /tmp/lock.txt -r /tmp/ci/torch.txt

FROM python AS runtime
USER 10001
WORKDIR /data
VOLUME /data
ENV HOME=/data TMPDIR=/tmp MPLCONFIGDIR=/tmp NUMBA_CACHE_DIR=/tmp

FROM runtime AS serve
COPY --from=serve-build /opt/hardrank /opt/hardrank
EXPOSE 7860
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/readyz', timeout=2)"]
ENTRYPOINT ["hardrank-serve", "--host", "0.0.0.0"]
CMD ["--help"]

FROM runtime AS audit
COPY --from=torch-build /opt/hardrank /opt/hardrank
EXPOSE 8501
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=2)"]
ENTRYPOINT ["hardrank-audit-app", "--host", "0.0.0.0"]

FROM runtime AS train
COPY --from=torch-build /opt/hardrank /opt/hardrank
ENTRYPOINT ["hardrank-train"]
