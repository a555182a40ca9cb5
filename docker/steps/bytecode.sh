#!/usr/bin/env bash
# The image's root is read-only: what Python would compile at the first start is compiled now.
. "$(dirname "$0")/lib.sh"
"$PREFIX/bin/python" -m compileall -q -j 0 --invalidation-mode unchecked-hash "$PREFIX/lib" ||
  say "some modules do not compile with this Python; they are never imported"
