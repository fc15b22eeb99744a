# Everref for a server: the web pages and the worker, without the embedded services. compose.yaml shows it at work.
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY requirements.lock pyproject.toml README.md LICENSE ./
# Every version as it was tested; the lock's hashes cannot stand beside a package that is built here.
RUN sed -n 's/^\([a-zA-Z0-9._-]*\(\[[a-z]*\]\)\{0,1\}==[^ ;]*\).*/\1/p' requirements.lock > constraints.txt
COPY mirror mirror
COPY hooks hooks
COPY sql sql
RUN python -m venv /opt/everref \
 && /opt/everref/bin/pip install --no-cache-dir --constraint constraints.txt '.[fast]'

FROM python:3.11-slim-bookworm
RUN apt-get update \
 && apt-get install -y --no-install-recommends git tini \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --home-dir /data everref \
 && install -d -o everref -g everref -m 700 /data
COPY --from=build /opt/everref /opt/everref
ENV PATH=/opt/everref/bin:$PATH EVERREF_DATA=/data PYTHONUNBUFFERED=1
USER everref
VOLUME /data
EXPOSE 8000
# git's children are nobody's when a worker is killed; somebody has to wait for them.
ENTRYPOINT ["tini", "--"]
CMD ["python", "-m", "mirror.web"]
