#!/bin/sh
# Fills in nginx's configuration from the environment, and starts nginx in its place. Nobody else may read the result: it
# holds the secret of the hooks.
set -eu
umask 077

fail() { echo "rtmp: $1" >&2; exit 1; }

: "${HOOK_SECRET_FILE:=/run/secrets/hook_secret}"
[ -r "$HOOK_SECRET_FILE" ] || fail "HOOK_SECRET_FILE=$HOOK_SECRET_FILE cannot be read: mount the secret that the service has, too"
HOOK_SECRET=$(cat "$HOOK_SECRET_FILE")
case $HOOK_SECRET in
'' | *[!A-Za-z0-9_-]*) fail "the secret in HOOK_SECRET_FILE is empty, or has other characters than letters, digits, - and _" ;;
esac
export HOOK_SECRET
mkdir -p "$RUN_FOLDER" 2>/dev/null && [ -w "$RUN_FOLDER" ] || fail "RUN_FOLDER=$RUN_FOLDER cannot be written to: mount a tmpfs of user $(id -u) there"

# shellcheck disable=SC2016 # names for envsubst, not values
names='$RUN_FOLDER $RTMP_LISTEN $HTTP_LISTEN $HOOK_LISTEN $SERVICE_URL $HOOK_SECRET $RESOLVER'
mkdir -p "$RUN_FOLDER/hls" "$RUN_FOLDER/temp"
envsubst "$names" < /etc/fourfold/nginx.conf.template > "$RUN_FOLDER/nginx.conf"
exec nginx -p "$RUN_FOLDER" -e stderr -c "$RUN_FOLDER/nginx.conf"
