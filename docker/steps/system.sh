#!/usr/bin/env bash
# system.sh build|run|triton|gpu: what an image needs of its distribution, and the user 1000 who runs it.
. "$(dirname "$0")/lib.sh"
case "${1:-}" in
build) apt_install python3.11 python3.11-venv; exit ;;
run) apt_install python3.11 ca-certificates ;;
triton) apt_install python3.11 libpython3.11 ca-certificates libflite1 ;;
gpu) apt_install python3-venv libflite1 ;;
*) die "say for what: system.sh build, run, triton or gpu" ;;
esac
# NVIDIA's image, and Ubuntu's, have a user of this number already.
getent passwd 1000 >/dev/null || useradd --uid 1000 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin parley
