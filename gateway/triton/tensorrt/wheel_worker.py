"""Builds and runs engines with the `tensorrt` wheel, as a program of its own in the Python that has it.

    python wheel_worker.py version
    python wheel_worker.py build REQUEST.json
    python wheel_worker.py run REQUEST.json

That Python need hold nothing but the wheel: only the standard library is imported beside it, and device memory comes
from the driver, which is wherever a GPU is. Names are those of TensorRT's Python API, 10 and 11.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

OLDEST = 10
STRONG_TYPING = 11
DRIVER = "libcuda.so.1"


class Failed(Exception):
    """`str()` is a sentence."""


def build(trt: Any, request: dict[str, Any]) -> None:
    """request: onnx, plan, timing_cache, precision, profiles as [{input: [least, usual, most]}]."""
    logger = trt.Logger(trt.Logger.WARNING)
    trt.init_libnvinfer_plugins(logger, "")
    builder = trt.Builder(logger)
    network = builder.create_network(0)  # from 11 on strongly typed whatever is said
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(request["onnx"]):
        told = [parser.get_error(number).desc() for number in range(parser.num_errors)]
        raise Failed(f"TensorRT does not take {request['onnx']}: {'; '.join(told) or 'it does not say why'}")
    config = builder.create_builder_config()
    if request["precision"] == "fp16" and _major(trt) < STRONG_TYPING:
        config.set_flag(trt.BuilderFlag.FP16)
    if request["precision"] == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)
    _add_profiles(builder, network, config, request["profiles"])
    timing = Path(request["timing_cache"])
    _take_timings(config, timing)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise Failed(f"TensorRT built no engine of {request['onnx']}")
    Path(request["plan"]).write_bytes(bytes(plan))
    _keep_timings(config, timing)


def _add_profiles(builder: Any, network: Any, config: Any, profiles: list[dict[str, Any]]) -> None:
    inputs = [network.get_input(number) for number in range(network.num_inputs)]
    for number, shapes in enumerate(profiles):
        profile = builder.create_optimization_profile()
        for tensor in inputs:
            if tensor.name not in shapes:
                raise Failed(f"profile {number} has no shapes for the graph's input {tensor.name}")
            if tensor.is_shape_tensor:
                raise Failed(f"the graph's input {tensor.name} is a shape, which profiles say nothing of")
            profile.set_shape(tensor.name, *(tuple(shape) for shape in shapes[tensor.name]))
        if config.add_optimization_profile(profile) < 0:
            raise Failed(f"TensorRT does not take profile {number}")


def _take_timings(config: Any, path: Path) -> None:
    known = path.read_bytes() if path.exists() else b""
    # Those of another machine or version are refused: then it times anew.
    if not config.set_timing_cache(config.create_timing_cache(known), False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _keep_timings(config: Any, path: Path) -> None:
    work = path.with_name(f".{path.name}.{os.getpid()}")
    work.write_bytes(bytes(config.get_timing_cache().serialize()))
    work.replace(path)


def run(trt: Any, request: dict[str, Any]) -> None:
    """request: plan, inputs as {name: {file, shape}}, and out, a folder: NAME.bin of each output, shapes.json."""
    logger = trt.Logger(trt.Logger.WARNING)
    trt.init_libnvinfer_plugins(logger, "")
    driver = Driver()
    engine = trt.Runtime(logger).deserialize_cuda_engine(Path(request["plan"]).read_bytes())
    if engine is None:
        raise Failed(f"TensorRT does not load {request['plan']}")
    context = engine.create_execution_context()
    if context is None:
        raise Failed("there is no memory on the GPU for this engine")
    stream = driver.stream()
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    taken = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    shapes = {name: tuple(one["shape"]) for name, one in request["inputs"].items()}
    missing = [name for name in taken if name not in shapes]
    if missing:
        raise Failed(f"no input {missing[0]} was given")
    if not context.set_optimization_profile_async(_profile(engine, taken, shapes), stream):
        raise Failed("TensorRT does not take the profile of these shapes")
    for name in taken:
        memory = driver.copy_in(Path(request["inputs"][name]["file"]).read_bytes())
        if not context.set_input_shape(name, shapes[name]) or not context.set_tensor_address(name, memory):
            raise Failed(f"TensorRT does not take input {name} of shape {list(shapes[name])}")
    outputs = _allocator(trt, driver)
    made = [name for name in names if name not in taken]
    for name in made:
        context.set_output_allocator(name, outputs)
    if not context.execute_async_v3(stream):
        raise Failed("the engine does not run")
    driver.wait(stream)
    folder = Path(request["out"])
    for name in made:
        size = _volume(outputs.shapes[name]) * engine.get_tensor_dtype(name).itemsize
        (folder / f"{name}.bin").write_bytes(driver.copy_out(outputs.memory[name][0], size))
    (folder / "shapes.json").write_text(json.dumps({name: outputs.shapes[name] for name in made}), "utf-8")


def _profile(engine: Any, taken: list[str], shapes: dict[str, tuple[int, ...]]) -> int:
    for number in range(engine.num_optimization_profiles):
        ranges = {name: engine.get_tensor_profile_shape(name, number) for name in taken}
        if all(
            least <= size <= most
            for name, (low, _, high) in ranges.items()
            for least, size, most in zip(tuple(low), shapes[name], tuple(high), strict=True)
        ):
            return number
    raise Failed(f"no profile of the engine holds these shapes: {shapes}")


def _allocator(trt: Any, driver: Driver) -> Any:
    """Outputs get memory when their size is known, which may be while it runs."""

    class Outputs(trt.IOutputAllocator):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.memory: dict[str, tuple[int, int]] = {}
            self.shapes: dict[str, list[int]] = {}

        def reallocate_output(self, name: str, memory: object, size: int, alignment: int) -> int:
            if self.memory.get(name, (0, -1))[1] < size:
                self.memory[name] = driver.memory(size), size
            return self.memory[name][0]

        def reallocate_output_async(
            self, name: str, memory: object, size: int, alignment: int, stream: object
        ) -> int:
            return self.reallocate_output(name, memory, size, alignment)

        def notify_shape(self, name: str, shape: Any) -> None:
            self.shapes[name] = [int(dim) for dim in shape]

    return Outputs()


class Driver:
    """Device memory by CUDA's driver API; all of it goes with the process."""

    def __init__(self) -> None:
        try:
            self._cuda = ctypes.CDLL(DRIVER)
        except OSError as error:
            raise Failed(f"NVIDIA's driver is not here: {error}") from None
        device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", ctypes.c_uint(0))
        self._call("cuDeviceGet", ctypes.byref(device), ctypes.c_int(0))
        # The primary one, which TensorRT uses too.
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self._call("cuCtxSetCurrent", context)

    def memory(self, size: int) -> int:
        """Address of so many bytes, at least one."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(1, size)))
        return int(address.value)

    def copy_in(self, data: bytes) -> int:
        address = self.memory(len(data))
        if data:
            self._call(
                "cuMemcpyHtoD_v2", ctypes.c_uint64(address), ctypes.c_char_p(data), ctypes.c_size_t(len(data))
            )
        return address

    def copy_out(self, address: int, size: int) -> bytes:
        data = ctypes.create_string_buffer(max(1, size))
        if size:
            self._call("cuMemcpyDtoH_v2", data, ctypes.c_uint64(address), ctypes.c_size_t(size))
        return data.raw[:size]

    def stream(self) -> int:
        stream = ctypes.c_void_p()
        self._call("cuStreamCreate", ctypes.byref(stream), ctypes.c_uint(0))
        return int(stream.value or 0)

    def wait(self, stream: int) -> None:
        self._call("cuStreamSynchronize", ctypes.c_void_p(stream))

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._cuda, name)(*arguments)
        if code:
            raise Failed(f"CUDA's {name} failed with {code}")


def _volume(shape: list[int]) -> int:
    count = 1
    for dim in shape:
        count *= dim
    return count


def _major(trt: Any) -> int:
    return int(str(trt.__version__).split(".")[0])


def main(arguments: list[str]) -> int:
    try:
        trt = importlib.import_module("tensorrt")
        if _major(trt) < OLDEST:
            raise Failed(f"TensorRT {trt.__version__} is too old: {OLDEST} or later is needed")
        if arguments == ["version"]:
            print(json.dumps({"tensorrt": trt.__version__}))
            return 0
        request = json.loads(Path(arguments[1]).read_text("utf-8"))
        if trt.__version__ != request["tensorrt"]:
            raise Failed(f"this is TensorRT {trt.__version__}, and {request['tensorrt']} was there before")
        {"build": build, "run": run}[arguments[0]](trt, request)
    except (Failed, ImportError, OSError, ValueError, TypeError, RuntimeError) as error:
        print(f"[E] {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    del sys.path[0]  # this file's folder, whose modules are the gateway's
    sys.exit(main(sys.argv[1:]))
