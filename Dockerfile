# One image for the operator (`threadcluster operator run`) and its workers (`shard-worker run`).
#
#   docker build -t threadcluster:0.1.0 .
#
# Everything comes from the hashed lock file.  Nothing here depends on the processor: `--platform linux/amd64,linux/arm64`.
# `make pin-base` writes the digest of the tag into BASE, where a registry can be reached; a release is built only then.
# Tag of BASE: python:3.13-slim
ARG BASE=python:3.13-slim

FROM ${BASE} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
COPY pyproject.toml requirements.lock ./
COPY tools/image_lock.py tools/
RUN python3 tools/image_lock.py "threadcluster[operator]" > runtime.lock \
    && python3 tools/image_lock.py hatchling > build.lock \
    && python3 -m venv /opt/threadcluster \
    && /opt/threadcluster/bin/pip install --require-hashes -r runtime.lock \
    && python3 -m venv /opt/build \
    && /opt/build/bin/pip install --require-hashes -r build.lock
COPY README.md LICENSE ./
COPY shard_worker shard_worker
COPY operator operator
# What installs is not needed where nothing is ever installed.
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /dist . \
    && /opt/threadcluster/bin/pip install --no-deps /dist/*.whl \
    && /opt/threadcluster/bin/pip uninstall --yes setuptools pip \
    && /opt/threadcluster/bin/shard-worker --version \
    && /opt/threadcluster/bin/threadcluster --version

FROM ${BASE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ThreadCluster" \
      org.opencontainers.image.description="An event-sourced chat service of sharded actors on a fenced Postgres journal, with an operator that moves its shards." \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /opt/threadcluster /opt/threadcluster
# The root file system may be read-only, and the user may be any: nothing is written, and no home is looked for.
ENV PATH=/opt/threadcluster/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/nonexistent \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 65532:65532
WORKDIR /
EXPOSE 8080 8081
CMD ["threadcluster", "--help"]
