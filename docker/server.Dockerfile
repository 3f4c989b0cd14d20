# The service: for CPUs as it stands, for NVIDIA's cards with EXTRAS=[gpu], which brings TensorRT (docker-compose.gpu.yml).
# Base images are pinned by version. Add the digest that your registry shows for it.

FROM debian:12.12-slim AS base
ENV PATH=/opt/fourfold/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin PYTHONUNBUFFERED=1
RUN apt-get update \
    && apt-get upgrade --yes \
    && apt-get install --yes --no-install-recommends ca-certificates python3 \
    && rm -rf /var/lib/apt/lists/*

FROM base AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/fourfold
WORKDIR /build
# What it depends on, in a layer that stays while only the program changes.
COPY docker/requirements.txt docker/requirements.txt
RUN pip install --no-cache-dir --requirement docker/requirements.txt
COPY LICENSE NOTICE README.md pyproject.toml ./
COPY clients/web clients/web
COPY engines engines
COPY models models
COPY server server
ARG EXTRAS=""
RUN pip install --no-cache-dir --constraint docker/requirements.txt ".${EXTRAS}" \
    && pip uninstall --yes setuptools pip

FROM base
COPY --from=build /opt/fourfold /opt/fourfold
RUN mkdir /data /cache && chown 10001:10001 /data /cache
ENV FOURFOLD_HOST=0.0.0.0 FOURFOLD_DATA_FOLDER=/data FOURFOLD_CACHE=/cache HOME=/tmp
USER 10001:10001
WORKDIR /data
VOLUME ["/data", "/cache"]
EXPOSE 8000
# Whether it lives. Whether it is ready (the engine answers) is told by /health/ready.
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python3", "-m", "server.probe"]
ENTRYPOINT ["fourfold"]
CMD ["serve"]
