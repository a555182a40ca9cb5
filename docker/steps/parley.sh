#!/usr/bin/env bash
# Parley itself into $PREFIX, as a package that needs no checkout.
. "$(dirname "$0")/lib.sh"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/src"
cp -r "$SOURCE/pyproject.toml" "$SOURCE/README.md" "$SOURCE/LICENSE" "$SOURCE/gateway" "$work/src"
"$TOOLS/bin/uv" build -q --wheel --no-build-isolation --python "$TOOLS/bin/python" -o "$work/dist" "$work/src"
uv_install "$work"/dist/parley-*.whl
