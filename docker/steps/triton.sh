#!/usr/bin/env bash
# triton.sh wheel|container: the backends and a `tritonserver` that finds them, at $PREFIX.
#   wheel      the server of the nvidia-pytriton wheel that packages.sh has installed: CPU
#   container  the server that is in NVIDIA's image at $SERVER (/opt/tritonserver): GPU
. "$(dirname "$0")/lib.sh"
mkdir -p "$PREFIX/backends" "$PREFIX/empty"

case "${1:-}" in
wheel)
  site=$("$PREFIX/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
  version=$("$PREFIX/bin/python" -c 'import sysconfig; print(sysconfig.get_python_version())')
  server="$site/pytriton/tritonserver"
  [ -x "$server/bin/tritonserver" ] || die "no server in $site: install the lock 'embedded' first"
  # The wheel keeps the backend and its stub apart, and Triton takes no links here.
  mkdir -p "$PREFIX/backends/python"
  find "$server/backends/python" -maxdepth 1 -type f -exec cp {} "$PREFIX/backends/python" \;
  cp "$server/python_backend_stubs/$version/triton_python_backend_stub" "$PREFIX/backends/python"
  cp -r "$SOURCE/triton/backends/onnxruntime" "$PREFIX/backends"
  rm -rf "$PREFIX/backends/onnxruntime/__pycache__"
  libraries="$site/nvidia_pytriton.libs" program="$server/bin/tritonserver" backends="$PREFIX/backends"
  ;;
container)
  # NVIDIA's own ONNX Runtime backend runs on the GPU; ours stays out.
  server=${SERVER:-/opt/tritonserver}
  libraries="$server/lib" program="$server/bin/tritonserver" backends="$server/backends"
  ;;
*) die "say which server: triton.sh wheel, or triton.sh container" ;;
esac

# The stub takes the first python3 on PATH, heeds PYTHON*, and puts the working directory before all modules.
cat > "$PREFIX/bin/tritonserver" <<END
#!/bin/sh
unset PYTHONHOME PYTHONPATH
export PATH="$PREFIX/bin:\$PATH"
export LD_LIBRARY_PATH="$libraries\${LD_LIBRARY_PATH:+:\$LD_LIBRARY_PATH}"
cd "$PREFIX/empty" && exec "$program" --backend-directory="$backends" "\$@"
END
chmod 755 "$PREFIX/bin/tritonserver"
