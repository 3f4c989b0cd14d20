# nginx with its RTMP module: takes publishers, and shows viewers what was upscaled, also as HLS.
# What it is configured to do stands in docker/nginx-rtmp. The base is pinned by version; add the digest that your registry shows.

FROM debian:12.12-slim
RUN apt-get update \
    && apt-get upgrade --yes \
    && apt-get install --yes --no-install-recommends curl gettext-base libnginx-mod-rtmp nginx-light \
    && rm -rf /var/lib/apt/lists/*
COPY docker/nginx-rtmp/nginx.conf.template /etc/fourfold/nginx.conf.template
COPY docker/rtmp-entrypoint.sh /usr/local/bin/rtmp-entrypoint
RUN chmod 755 /usr/local/bin/rtmp-entrypoint
# A tmpfs belongs at RUN_FOLDER. 127.0.0.11 is the name server of a compose network.
ENV RUN_FOLDER=/run/nginx-rtmp RTMP_LISTEN=1935 HTTP_LISTEN=8080 HOOK_LISTEN=127.0.0.1:8081 \
    SERVICE_URL=http://server:8000 RESOLVER=127.0.0.11
USER 10001:10001
EXPOSE 1935 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:8080/health"]
ENTRYPOINT ["rtmp-entrypoint"]
