#!/bin/sh
# Makes what docker-compose.yml needs and the repository must not hold: keys and passwords, as files in a folder (secrets/,
# or FOURFOLD_SECRETS). What is there already stays. The folder is closed to others; its files are open, because the user of
# a container has to read the one that is mounted into it.
set -eu
cd "$(dirname "$0")/.."
folder=${FOURFOLD_SECRETS:-./secrets}
fourfold=${FOURFOLD:-.venv/bin/fourfold}
umask 077
mkdir -p "$folder"
chmod 700 "$folder"

secret() { [ -s "$folder/$1" ] || od -An -tx1 -N24 /dev/urandom | tr -d ' \n' > "$folder/$1"; }
key() { [ -s "$folder/$1" ] || $fourfold keys add "$2" --scope "$3" --file "$folder/api_keys" > "$folder/$1"; }

stream() { [ -s "$folder/$1" ] || $fourfold keys stream add '*' --for "$2" --file "$folder/stream_keys" > "$folder/$1"; }

key admin_key admin admin
key metrics_key prometheus metrics
stream publish_key publish
stream play_key play
secret hook_secret
secret grafana_admin_password
chmod 444 "$folder"/*

if [ -z "${FOURFOLD_SECRETS:-}" ]; then
    touch .env
    grep -q '^FOURFOLD_SECRETS=' .env || echo "FOURFOLD_SECRETS=$folder" >> .env
fi
echo "$folder holds the keys: admin_key for requests, publish_key and play_key for streams, grafana_admin_password for the user admin of Grafana"
