#!/usr/bin/env bash
# $TOOLS: uv, setuptools and the maker of the bill of materials. For the building stage alone.
. "$(dirname "$0")/lib.sh"
"$PYTHON" -m venv "$TOOLS"
unset PIP_CONSTRAINT # NVIDIA's images pin packages of theirs, and hashes are exact anyhow
"$TOOLS/bin/python" -m pip install -q --disable-pip-version-check --no-cache-dir --no-deps --require-hashes \
  --only-binary :all: -r "$SOURCE/requirements/image.lock"
