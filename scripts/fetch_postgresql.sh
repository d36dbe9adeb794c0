#!/usr/bin/env bash
# PostgreSQL's binaries for the tests: those of Debian's package where it is installed, else a wheel's into runtime/postgresql.
# Quick when they are there.
set -euo pipefail
cd "$(dirname "$0")/.."

version=0.1.4
folder=runtime/postgresql

if compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || [ -x "$folder/bin/initdb" ]; then exit 0; fi

python3 -m pip --version >/dev/null || { echo "fetch_postgresql.sh: PostgreSQL (Debian: apt-get install postgresql) or Python 3 with pip is needed." >&2; exit 1; }
echo "fetching PostgreSQL with pgserver $version into $folder"
mkdir -p runtime
scratch=$(mktemp -d runtime/.fetch.XXXXXX)
trap 'rm -rf "$scratch"' EXIT
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
  --python-version 3.11 --implementation cp --abi cp311 --platform "manylinux_2_17_$(uname -m)" --dest "$scratch" "pgserver==$version"
python3 -m zipfile -e "$scratch"/*.whl "$scratch"
chmod 755 "$scratch"/pgserver/pginstall/bin/*
rm -rf "$folder"
mv "$scratch/pgserver/pginstall" "$folder"
