# syntax=docker/dockerfile:1
# One image for every part of a run: a worker, what Docker and Kubernetes workers start, and the command line.
#   docker build -t cmrm:0.1.0 .
#   docker run --rm --gpus all -v cmrm-store:/srv/cmrm/store -v cmrm-cache:/srv/cmrm/cache cmrm:0.1.0 cmrm run
# torch's wheel brings its own CUDA 13.0 libraries, so the base holds little more than what the driver looks for.
ARG BASE=nvidia/cuda:13.0.3-base-ubuntu24.04

FROM ${BASE} AS build
# Ubuntu pins its own Python; everything else is pinned by constraints.txt.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3.12-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3.12 -m venv /opt/cmrm
ENV PATH=/opt/cmrm/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src
# What cmrm needs changes seldom and is large; a layer of its own lets a change of code leave it alone.
COPY pyproject.toml constraints.txt README.md LICENSE ./
RUN mkdir cmrm storage tasks flows && touch cmrm/__init__.py storage/__init__.py tasks/__init__.py flows/__init__.py \
    && pip install -c constraints.txt '.[s3,datasets]' \
    && pip uninstall -y cmrm \
    && rm -rf cmrm storage tasks flows
COPY cmrm cmrm
COPY storage storage
COPY tasks tasks
COPY flows flows
RUN pip install --no-deps .

FROM ${BASE}
# tini hands signals on and collects orphans; ca-certificates is for the hub and S3.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3.12 ca-certificates tini \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --user-group --create-home --shell /usr/sbin/nologin cmrm \
    && install -d -o cmrm -g cmrm /srv/cmrm /srv/cmrm/store /srv/cmrm/cache /srv/cmrm/specs /srv/cmrm/data
COPY --from=build /opt/cmrm /opt/cmrm
COPY prefect.yaml /opt/cmrm/deploy/prefect.yaml
COPY docs/deploy /opt/cmrm/deploy/docs/deploy
# No secret is ever set here: credentials come from the environment of a container, or from mounted files.
ENV PATH=/opt/cmrm/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CMRM_STORE=/srv/cmrm/store \
    CMRM_CACHE=/srv/cmrm/cache/cmrm \
    HF_HOME=/srv/cmrm/cache/huggingface \
    MPLCONFIGDIR=/tmp/matplotlib \
    PREFECT_HOME=/tmp/prefect \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    DO_NOT_TRACK=1
VOLUME ["/srv/cmrm/store", "/srv/cmrm/cache"]
WORKDIR /srv/cmrm
USER 10001:10001
EXPOSE 8080
# Whatever follows the image's name is run as it stands: `cmrm run …`, or the `prefect flow-run execute` of Prefect's workers.
# Which part a container plays is not known here, so health is asked by compose.yaml and docs/deploy/kubernetes.yaml.
ENTRYPOINT ["tini", "--"]
CMD ["prefect", "worker", "start", "--pool", "gpu", "--type", "process", "--limit", "1", "--with-healthcheck"]
