"""The lease table as a model of Triton's Python backend; shipped there as 1/model.py beside 1/table.py.

It runs in any Python backend, so nothing of Parley is imported. One instance that answers one request
after the other: that is what makes the table's answers atomic.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import sys
import time
from types import ModuleType
from typing import Any

import numpy as np

HERE_ALREADY = "the lease table is here already"


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        import triton_python_backend_utils as pb

        self._pb = pb
        # Two processes that install at the same time would make two tables, the second in place of the
        # first and empty. A copy that does not get ready leaves the old one in service.
        self._sole = _sole_of_this_server()
        parameters = json.loads(args["model_config"]).get("parameters", {})
        grace = parameters.get("grace_s", {}).get("string_value", "0")
        table = _module_beside("table")
        self._table = table.Table(time.monotonic(), name=os.urandom(8).hex(), grace_s=float(grace))

    def execute(self, requests: list[Any]) -> list[Any]:
        pb = self._pb
        responses = []
        for request in requests:
            try:
                text = pb.get_input_tensor_by_name(request, "REQUEST").as_numpy().reshape(-1)[0]
                reply = self._table.tell(json.loads(text), time.monotonic())
            except ValueError as error:
                reply = {"error": str(error)}
            tensor = pb.Tensor("REPLY", np.array([json.dumps(reply).encode()], dtype=object))
            responses.append(pb.InferenceResponse([tensor]))
        return responses

    def finalize(self) -> None:
        if self._sole is not None:
            self._sole.close()


def _sole_of_this_server() -> socket.socket | None:
    """Something that only one process of this server can have, and that the kernel takes back when it dies.

    An abstract socket address leaves no file behind. Names of processes are unique within one
    namespace, and network namespaces may be shared by several: so that one is part of it.
    Raises: RuntimeError when another table has it. None: this system has no such sockets.
    """
    server = os.getppid()
    try:
        with open(f"/proc/{server}/stat", encoding="ascii", errors="replace") as file:
            born = file.read().rpartition(")")[2].split()[19]
        space = os.readlink("/proc/self/ns/pid")
        sole = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    except OSError:
        return None
    try:
        sole.bind(f"\0parley-leases {space} {server} {born}")
    except OSError as error:
        sole.close()
        if error.errno == 98:  # EADDRINUSE
            raise RuntimeError(HERE_ALREADY) from None
        return None
    return sole


def _module_beside(name: str) -> ModuleType:
    """By its path: a package of that name may be installed on the server."""
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), f"{name}.py")
    full = f"parley_lease_{name}"
    spec = importlib.util.spec_from_file_location(full, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[full] = module
    spec.loader.exec_module(module)
    return module
