# Three images of one project:  docker build --target serve -t hardrank-serve .   (or audit, or train)
# serve has no torch. All run as user 10001 with a read-only root; what lasts lies in the volume /data.
ARG BASE_IMAGE=debian:bookworm-slim
# cpu is small; gpu brings ONNX Runtime and FAISS for CUDA. PyTorch's default build has CUDA either way.
ARG ACCELERATOR=cpu
# More options for pip: a mirror, or where builds of PyTorch without CUDA lie (--extra-index-url URL), 5 GB less.
ARG PIP_OPTIONS=""

FROM ${BASE_IMAGE} AS runtime
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*.log /var/log/apt
RUN useradd --uid 10001 --home-dir /data --create-home --shell /usr/sbin/nologin hardrank
ENV PATH=/opt/hardrank/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

FROM runtime AS serve-libraries
ARG ACCELERATOR
ARG PIP_OPTIONS
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv ca-certificates
RUN python3 -m venv /opt/hardrank
COPY .ci/lock.txt .ci/container /tmp/ci/
RUN pip install -q --no-cache-dir $PIP_OPTIONS -c /tmp/ci/lock.txt -r /tmp/ci/serve.txt -r /tmp/ci/$ACCELERATOR.txt

FROM serve-libraries AS torch-libraries
ARG PIP_OPTIONS
RUN pip install -q --no-cache-dir $PIP_OPTIONS -c /tmp/ci/lock.txt -r /tmp/ci/torch.txt

# The package apart from its libraries, which change seldom and are most of the size.
FROM serve-libraries AS package
ARG PIP_OPTIONS
WORKDIR /src
RUN pip install -q --no-cache-dir $PIP_OPTIONS -r /tmp/ci/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY .ci/src .ci/src
COPY models models
COPY trainer trainer
COPY serving serving
COPY audit_app audit_app
RUN pip install -q --no-deps --no-build-isolation --prefix /opt/package .

FROM serve-libraries AS serve-ready
RUN pip uninstall -q -y setuptools pip

FROM torch-libraries AS torch-ready
RUN pip uninstall -q -y setuptools pip

FROM runtime AS ready
USER 10001
WORKDIR /data
VOLUME /data
ENV HOME=/data TMPDIR=/tmp MPLCONFIGDIR=/tmp/matplotlib NUMBA_CACHE_DIR=/tmp/numba

FROM ready AS serve
COPY --from=serve-ready /opt/hardrank /opt/hardrank
COPY --from=package /opt/package /opt/hardrank
EXPOSE 7860
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/readyz', timeout=2)"]
ENTRYPOINT ["hardrank", "serve", "--host", "0.0.0.0"]
CMD ["--help"]

FROM ready AS audit
COPY --from=torch-ready /opt/hardrank /opt/hardrank
COPY --from=package /opt/package /opt/hardrank
EXPOSE 8501
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8501/_stcore/health', timeout=2)"]
ENTRYPOINT ["hardrank", "app", "--host", "0.0.0.0"]

FROM ready AS train
COPY --from=torch-ready /opt/hardrank /opt/hardrank
COPY --from=package /opt/package /opt/hardrank
ENTRYPOINT ["hardrank", "train"]
