#!/usr/bin/env bash
# An environment without pip at $PREFIX, with the packages of requirements/NAME.lock for each NAME in $LOCKS.
. "$(dirname "$0")/lib.sh"
read -ra locks <<< "${LOCKS:-}"
[ "${#locks[@]}" -gt 0 ] || die "name the locks, as in: LOCKS='gateway cloud' packages.sh"
for lock in "${locks[@]}"; do
  [ -f "$SOURCE/requirements/$lock.lock" ] || die "there is no requirements/$lock.lock"
done
"$PYTHON" -m venv --without-pip "$PREFIX"
for lock in "${locks[@]}"; do uv_install --require-hashes -r "$SOURCE/requirements/$lock.lock"; done
