#!/usr/bin/env bash
# packages.sh LOCK...: an environment without pip at $PREFIX, with the packages of these locks.
. "$(dirname "$0")/lib.sh"
[ "$#" -gt 0 ] || die "name at least one lock, as in: packages.sh gateway cloud"
for lock in "$@"; do
  [ -f "$SOURCE/requirements/$lock.lock" ] || die "there is no requirements/$lock.lock"
done
"$PYTHON" -m venv --without-pip "$PREFIX"
for lock in "$@"; do uv_install --require-hashes -r "$SOURCE/requirements/$lock.lock"; done
