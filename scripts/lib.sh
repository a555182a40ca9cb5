# Shared by the scripts beside it (sourced, not run): the checkout's own environment.
# PARLEY_PYTHON chooses the interpreter; PARLEY_VENV another place than .venv.

say() { printf '\033[1m[parley]\033[0m %s\n' "$*" >&2; }
die() { printf '\033[1;31m[parley]\033[0m %s\n' "$*" >&2; exit 1; }

venv="${PARLEY_VENV:-$PWD/.venv}"

# The embedded Triton's Python stub needs CPython 3.11 or 3.12 with a shared libpython of the same build.
python_fits() {
  "$1" - <<'PY' 2>/dev/null
import os, sys, glob, ensurepip, venv
v = "%d.%d" % sys.version_info[:2]
lib = "libpython%s.so.1.0" % v
where = [sys.base_prefix + "/lib"] + glob.glob("/usr/lib/*-linux-gnu") + glob.glob("/lib/*-linux-gnu")
sys.exit(0 if v in ("3.11", "3.12") and any(os.path.exists(d + "/" + lib) for d in where) else 1)
PY
}

find_python() {
  local p
  for p in ${PARLEY_PYTHON:-} python3.11 python3.12 python3 "$HOME"/.pyenv/versions/3.1[12].*/bin/python3 /usr/bin/python3.1[12]; do
    command -v "$p" >/dev/null 2>&1 && python_fits "$p" && { command -v "$p"; return; }
  done
  return 1
}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo -n "$@"; else return 1; fi; }

apt_install() { # packages...; false when it cannot
  command -v apt-get >/dev/null || return 1
  as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null 2>&1 || true
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >/dev/null 2>&1
}

# ensure_env LOCK...: .venv holds these locks' packages and Parley itself, editable. `dev` holds all of them.
ensure_env() {
  local python lock
  if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python) || {
      say "no CPython 3.11 or 3.12 with a shared libpython was found; trying the system's packages"
      apt_install python3 python3-venv libpython3-dev || true
      python=$(find_python) || die "need CPython 3.11 or 3.12 with libpython (Debian/Ubuntu: apt-get install python3.12 python3.12-venv libpython3.12). Set PARLEY_PYTHON to choose one."
    }
    say "making $venv with $("$python" -V)"
    "$python" -m venv "$venv" || die "could not make a virtual environment (Debian/Ubuntu: apt-get install python3-venv)"
  fi
  for lock in build "$@"; do
    is_installed dev || is_installed "$lock" || install_lock "$lock"
  done
  lock=$(cat pyproject.toml gateway/__init__.py | sha256sum)
  [ "$(cat "$venv/.parley" 2>/dev/null)" = "$lock $PWD" ] && return
  pip_install --no-deps --no-build-isolation -e .
  printf '%s' "$lock $PWD" > "$venv/.parley"
}

pip_install() { "$venv/bin/python" -m pip install -q --disable-pip-version-check "$@"; }

is_installed() { [ "$(cat "$venv/.lock-$1" 2>/dev/null)" = "$(sha256sum < "requirements/$1.lock")" ]; }

install_lock() {
  say "installing the locked packages: $1"
  pip_install --no-deps --require-hashes --only-binary :all: -r "requirements/$1.lock" ||
    die "the packages of requirements/$1.lock could not be installed: the lines above say why"
  sha256sum < "requirements/$1.lock" > "$venv/.lock-$1"
}

# flite is the more intelligible, permissively licensed voice; it exists as a system library only.
ensure_flite() {
  ldconfig -p 2>/dev/null | grep -q 'libflite_cmu_us_slt\.so\.1' && return 0
  say "installing libflite1 (the second voice)"
  apt_install libflite1 || return 1
}

# Servers that tests start for themselves; RUNLEVEL has the packages start none. A missing one is told, and fails in CI.
ensure_servers() {
  local pair missing=""
  for pair in redis-server:redis-server promtool:prometheus; do
    command -v "${pair%%:*}" >/dev/null && continue
    say "installing ${pair##*:} (tests start it)"
    RUNLEVEL=1 apt_install "${pair##*:}" && command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
  done
  [ -z "$missing" ] || leave_out "tests that start$missing (Debian/Ubuntu: apt-get install$missing)"
}

# A control plane of Kubernetes, helm and kubeconform: built once, kept in the cache.
ensure_cluster() {
  "$venv/bin/python" -m tools.cluster.build >/dev/null || leave_out "the chart on a real API server (scripts/cluster-tools says why)"
  [ "$(id -u)" = 0 ] || leave_out "the chart's containers as processes (only root may)"
}

leave_out() {
  [ -z "${CI:-}" ] || die "in CI nothing is left out, but this would be: $1"
  left_out="${left_out:+$left_out; }$1"
}

uv_path() { # for development only: locks are compiled with uv
  command -v uv && return
  [ -x "$venv/bin/uv" ] || "$venv/bin/python" -m pip install -q --disable-pip-version-check uv >&2
  echo "$venv/bin/uv"
}
