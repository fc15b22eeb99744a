# Everref for a server: the web pages and the worker, without the embedded services. compose.yaml shows it at work.
# Every download is pinned by what it is: images by digest, packages by hash. `make digests` and `make lock` renew both.
FROM python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b AS build
WORKDIR /src
COPY deploy/build.lock deploy/server.lock deploy/
RUN pip install --no-cache-dir --no-deps --require-hashes -r deploy/build.lock \
 && python -m venv --without-pip /opt/everref \
 && pip --python /opt/everref/bin/python install --no-cache-dir --no-deps --require-hashes -r deploy/server.lock
COPY pyproject.toml README.md LICENSE ./
COPY mirror mirror
COPY hooks hooks
COPY sql sql
RUN python -m hatchling build --target wheel --directory /wheel \
 && pip --python /opt/everref/bin/python install --no-cache-dir --no-deps --no-index /wheel/*.whl

FROM python:3.11-slim-bookworm@sha256:0bee7276f83efd4a1ee05bbbf4281d95ed28e079220a9457f25a93e3f1e3c31b
RUN apt-get update \
 && apt-get install -y --no-install-recommends git openssh-client tini \
 && rm -rf /var/lib/apt/lists/* \
 && groupadd --system --gid 10001 everref \
 && useradd --system --uid 10001 --gid everref --home-dir /data everref \
 && install -d -o everref -g everref -m 700 /data
COPY --from=build /opt/everref /opt/everref
COPY --chmod=755 deploy/healthcheck /usr/local/bin/everref-healthcheck
ENV PATH=/opt/everref/bin:$PATH EVERREF_DATA=/data PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
VOLUME /data
EXPOSE 8000
# It finds out by itself whether web, hooks or worker runs here. A probe of /readyz takes 3 s at the most, arq's a few.
HEALTHCHECK --interval=30s --timeout=30s --start-period=60s CMD ["everref-healthcheck"]
# What is built from which source: --build-arg REVISION="$(git rev-parse HEAD)" --build-arg CREATED="$(date -u +%FT%TZ)"
ARG VERSION=0.1.0 REVISION= CREATED=
LABEL org.opencontainers.image.title="Everref" \
      org.opencontainers.image.description="Every ref, ever: a git-native mirror and backup service" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.base.name="docker.io/library/python:3.11-slim-bookworm" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.created="$CREATED"
# git's children are nobody's when a worker is killed; somebody has to wait for them.
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "mirror.web"]
