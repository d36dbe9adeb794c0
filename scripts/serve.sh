#!/usr/bin/env bash
# Serves the models folder with the release build; when the server is ready, prints one line that explains a bundled photo.
#   serve.sh [HOST:PORT]
set -euo pipefail
cd "$(dirname "$0")/.."

listen=${1:-127.0.0.1:8080}
server=$$ # the process that becomes the server below

ready() {
  local status=
  { exec 3<>"/dev/tcp/${listen%:*}/${listen##*:}"; } 2>/dev/null || return 1
  printf 'GET /readyz HTTP/1.0\r\nHost: %s\r\n\r\n' "$listen" >&3
  read -r _ status _ <&3 || true
  exec 3>&-
  [ "$status" = 200 ]
}

(
  until ready; do
    sleep 0.2
    kill -0 "$server" 2>/dev/null || exit 0
  done
  printf '\nready; to see what the network saw in a photo:\n\n  curl --data-binary @examples/chelsea.png -o explained.png "http://%s/explain?method=pgig"\n\n' "$listen"
) &

exec target/release/explaind serve --models models --default-model squeezenet1_1 --listen "$listen"
