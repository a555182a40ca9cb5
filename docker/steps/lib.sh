# Shared by the steps beside it (sourced, not run). A step says where it works by variables, so that a test
# can run it in an empty folder in place of an image:
#   PREFIX  what the step makes            /opt/parley
#   SOURCE  the repository                 /src
#   TOOLS   what images are built with     /tools
#   PYTHON  the interpreter of the image   python3.11
set -euo pipefail
PREFIX=${PREFIX:-/opt/parley} SOURCE=${SOURCE:-/src} TOOLS=${TOOLS:-/tools} PYTHON=${PYTHON:-python3.11}

say() { printf '[%s] %s\n' "$(basename "$0" .sh)" "$*" >&2; }
die() { say "$*"; exit 1; }

apt_install() { # packages...
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends "$@"
  rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/log/apt /var/log/dpkg.log
}

# Locks pin versions and hashes, so any index will do: /etc/uv/uv.toml may name another. Not from the repository:
# its pyproject.toml has rules for uv that made the locks, and would change what they say.
uv_install() {
  cd / && "$TOOLS/bin/uv" pip install -q --python "$PREFIX/bin/python" --no-deps --only-binary :all: --link-mode copy "$@"
  rm -f "$PREFIX/.lock" # uv's own, which all may write
}
