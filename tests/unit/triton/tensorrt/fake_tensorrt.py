"""A stand-in for the `tensorrt` wheel, put on a Python's path under its name; device memory is the process's own.

Its "graphs" are JSON: names, types and dims of inputs. Its "engines" put out twice their input FEATURES and its sum
over the frames as a state. It writes down what it was asked, and fails as the files beside it say.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

HERE = Path(__file__).parent


def _told(name: str) -> bool:
    return (HERE / name).exists()


def _note(*what: Any) -> None:
    with (HERE / "calls").open("a") as file:
        file.write(json.dumps(what) + "\n")


__version__ = (HERE / "version").read_text() if _told("version") else "10.13.3.9"
BuilderFlag = (
    SimpleNamespace(TF32="TF32")
    if __version__.startswith("11")
    else SimpleNamespace(TF32="TF32", FP16="FP16")
)
TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")


class Logger:
    WARNING = 2

    def __init__(self, level: int) -> None:
        self.level = level


def init_libnvinfer_plugins(logger: Logger, namespace: str) -> bool:
    return True


class IOutputAllocator:
    pass


class OnnxParser:
    def __init__(self, network: Any, logger: Logger) -> None:
        self.network = network
        self.num_errors = 1

    def parse_from_file(self, path: str) -> bool:
        if _told("parse fails"):
            return False
        self.network.source = json.loads(Path(path).read_text())
        self.network.num_inputs = len(self.network.source)
        return True

    def get_error(self, number: int) -> Any:
        return SimpleNamespace(desc=lambda: "no importer for operator Mystery")


class _Network:
    source: Any = None
    num_inputs = 0

    def get_input(self, number: int) -> Any:
        return SimpleNamespace(name=self.source[number], is_shape_tensor=False)


class _Profile:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}

    def set_shape(self, name: str, low: Any, usual: Any, high: Any) -> None:
        self.shapes[name] = (low, usual, high)


class _Config:
    def __init__(self) -> None:
        self.flags = {"TF32"}
        self.profiles: list[Any] = []
        self.cache: Any = None

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profiles.append(profile.shapes)
        return len(self.profiles) - 1

    def create_timing_cache(self, data: bytes) -> bytes:
        return data

    def set_timing_cache(self, data: bytes, ignore_mismatch: bool) -> bool:
        if data.startswith(b"another"):
            return False
        self.cache = data
        return True

    def get_timing_cache(self) -> Any:
        return SimpleNamespace(serialize=lambda: memoryview(self.cache + b"timed "))


class Builder:
    def __init__(self, logger: Logger) -> None:
        pass

    def create_network(self, flags: int) -> _Network:
        assert flags == 0
        return _Network()

    def create_builder_config(self) -> _Config:
        return _Config()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _Config) -> memoryview | None:
        _note("build", sorted(config.flags), config.profiles, config.cache.decode())
        if _told("hangs"):
            time.sleep(60)
        if _told("is killed"):
            os.kill(os.getpid(), signal.SIGKILL)
        if _told("build fails"):
            print("[11/22/2026-06:00:00] [TRT] [E] Error Code 4: out of memory", flush=True)
            return None
        return memoryview(json.dumps({"inputs": network.source, "profiles": config.profiles}).encode())


class Runtime:
    def __init__(self, logger: Logger) -> None:
        pass

    def deserialize_cuda_engine(self, plan: bytes) -> Any:
        return None if _told("does not load") else _Engine(json.loads(plan))


class _Engine:
    def __init__(self, told: Any) -> None:
        self.told = told
        self.names: list[str] = [*told["inputs"], "DOUBLED", "new_00_sum"]
        self.num_io_tensors = len(self.names)
        self.num_optimization_profiles = len(told["profiles"])

    def get_tensor_name(self, number: int) -> str:
        return self.names[number]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name in self.told["inputs"] else "out"

    def get_tensor_dtype(self, name: str) -> Any:
        return SimpleNamespace(itemsize=4)

    def get_tensor_profile_shape(self, name: str, profile: int) -> Any:
        return self.told["profiles"][profile][name]

    def create_execution_context(self) -> Any:
        return _Context()


class _Context:
    def __init__(self) -> None:
        self.shapes: dict[str, Any] = {}
        self.addresses: dict[str, int] = {}
        self.allocators: dict[str, Any] = {}

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        _note("profile", number)
        return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        self.shapes[name] = shape
        return True

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def set_output_allocator(self, name: str, allocator: Any) -> bool:
        self.allocators[name] = allocator
        return True

    def execute_async_v3(self, stream: int) -> bool:
        if _told("does not run"):
            return False
        whole = {}
        for name, shape in self.shapes.items():
            data = ctypes.string_at(self.addresses[name], 4 * int(np.prod(shape)))
            whole[name] = np.frombuffer(data, np.float32).reshape(shape)
        before = np.where(whole["START"] > 0, np.float32(0), whole["state_00_sum"])
        made = {
            "DOUBLED": whole["FEATURES"] * np.float32(2.5 if _told("lies") else 2),
            "new_00_sum": before + whole["FEATURES"].sum((1, 2), keepdims=True)[:, :, 0],
        }
        for name, value in made.items():
            allocator = self.allocators[name]
            address = allocator.reallocate_output_async(name, None, value.nbytes, 256, stream)
            ctypes.memmove(address, np.ascontiguousarray(value).tobytes(), value.nbytes)
            allocator.notify_shape(name, value.shape)
        return True


class _Driver:
    def __init__(self) -> None:
        self.held: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        assert name in ("cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxSetCurrent", "cuStreamCreate",
                        "cuStreamSynchronize"), name  # fmt: skip
        return lambda *_: 0

    def cuMemAlloc_v2(self, address: Any, size: Any) -> int:
        if _told("no memory"):
            return 2
        self.held.append(ctypes.create_string_buffer(size.value))
        address._obj.value = ctypes.addressof(self.held[-1])
        return 0

    def cuMemcpyHtoD_v2(self, to: Any, data: Any, size: Any) -> int:
        ctypes.memmove(to.value, data, size.value)
        return 0

    def cuMemcpyDtoH_v2(self, data: Any, source: Any, size: Any) -> int:
        ctypes.memmove(data, source.value, size.value)
        return 0


_open = ctypes.CDLL
ctypes.CDLL = lambda name, *more, **named: (  # type: ignore[misc, assignment]
    _Driver() if name == "libcuda.so.1" else _open(name, *more, **named)
)
