#!/usr/bin/env bash
# $PREFIX/licenses (whose work is inside, under which licence) and $PREFIX/sbom.json (CycloneDX).
. "$(dirname "$0")/lib.sh"
"$PREFIX/bin/python" -I "$(dirname "$0")/licences.py" "$PREFIX/licenses"
cp "$SOURCE/LICENSE" "$PREFIX/licenses/parley.txt"
"$TOOLS/bin/cyclonedx-py" environment --output-reproducible --of JSON --mc-type application \
  --pyproject "$SOURCE/pyproject.toml" -o "$PREFIX/sbom.json" "$PREFIX/bin/python" 2>/dev/null ||
  die "the bill of materials could not be made: run cyclonedx-py environment $PREFIX/bin/python"
