# The image of one process: EXTRA is its name, and its extra in pyproject.toml. Built from the repository's root:
#
#     docker build --file docker/service.Dockerfile --build-arg EXTRA=gateway --tag trimtab-gateway .
#
# BASE: a Debian with Python 3.11 or newer and its venv module.
ARG BASE=python:3.11-slim-bookworm

# hadolint ignore=DL3006
FROM ${BASE} AS build
ARG EXTRA
WORKDIR /build
COPY constraints.txt ./
# The tools stay behind in this stage; pip keeps no cache that would be copied.
RUN python3 -m venv /tools \
 && /tools/bin/python -m pip install --no-cache-dir --disable-pip-version-check --constraint constraints.txt \
    uv cyclonedx-bom
COPY pyproject.toml README.md ./
COPY protos protos
COPY clients/python clients/python
COPY services services
# Without pip in it. Compiled here, since the root of a container is read-only.
RUN python3 -m venv --without-pip /opt/trimtab \
 && /tools/bin/uv pip install --python /opt/trimtab/bin/python --system-certs --no-cache --compile-bytecode \
    --constraint constraints.txt ./protos ./clients/python ".[${EXTRA:?name the process}]"
# The bill of materials: what is installed, with versions and licences.
RUN mkdir -p /sbom \
 && /tools/bin/cyclonedx-py environment /opt/trimtab/bin/python --pyproject pyproject.toml --output-reproducible \
    --output-format JSON --output-file /sbom/sbom.cdx.json

# hadolint ignore=DL3006
FROM ${BASE}
ARG EXTRA
LABEL org.opencontainers.image.title="trimtab-${EXTRA}" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN groupadd --gid 65532 trimtab \
 && useradd --uid 65532 --gid trimtab --no-create-home --home-dir /tmp --shell /usr/sbin/nologin trimtab \
 # where volumes are mounted: a new one of Docker takes over who owns the folder
 && install --directory --owner trimtab --group trimtab /etc/trimtab /var/cache/trimtab \
    /var/lib/trimtab/models /var/lib/trimtab/operator/.trimtab /var/lib/trimtab/rollout /var/lib/trimtab/trainer
COPY --from=build /opt/trimtab /opt/trimtab
COPY --from=build /sbom /usr/share/doc/trimtab
# Nothing is fetched from a model hub: models come from the registry. (TOKENIZERS_PARALLELISM is no secret.)
# hadolint ignore=DL3064
ENV PATH=/opt/trimtab/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    TOKENIZERS_PARALLELISM=false
USER 65532:65532
WORKDIR /tmp
ENTRYPOINT ["trimtab"]
