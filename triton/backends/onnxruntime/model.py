"""`backend: "onnxruntime"` for a server that has only the Python backend (a Python-based backend).

Models written for Triton's own onnxruntime backend load unchanged. Kept: default_model_filename,
batching, sequence controls, strings, requested outputs, thread counts, graph optimisation level,
auto-completion. Left out, with a line in the log: execution accelerators. Refused: implicit state.
"""

import json
import os
import select
import threading
from collections import defaultdict

import numpy as np
import onnx_graph
import triton_python_backend_utils as pb_utils

DEFAULT_MAX_BATCH = 4
"""What Triton's own backend takes for a graph that can batch and a config that does not say."""

ORT_TYPES = {
    "tensor(float)": "TYPE_FP32", "tensor(double)": "TYPE_FP64", "tensor(float16)": "TYPE_FP16",
    "tensor(int8)": "TYPE_INT8", "tensor(int16)": "TYPE_INT16", "tensor(int32)": "TYPE_INT32",
    "tensor(int64)": "TYPE_INT64", "tensor(uint8)": "TYPE_UINT8", "tensor(uint16)": "TYPE_UINT16",
    "tensor(uint32)": "TYPE_UINT32", "tensor(uint64)": "TYPE_UINT64", "tensor(bool)": "TYPE_BOOL",
    "tensor(string)": "TYPE_STRING",
}  # fmt: skip


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        """Fill in what the config leaves open from the graph; runs in a process of its own."""
        known = config.as_dict()
        # The only place that names the model's file here is the stub's own command line.
        with open("/proc/self/cmdline", encoding="utf-8") as file:
            path = file.read().split("\0")[1]
        inputs, outputs = onnx_graph.read_graph(_model_path(os.path.dirname(path), known))
        given = {tensor["name"]: tensor for tensor in [*known["input"], *known["output"]]}
        batch = known["max_batch_size"] > 0
        if not batch and _can_batch(inputs + outputs, given):
            batch = True
            config.set_max_batch_size(DEFAULT_MAX_BATCH)
        for tensors, add in ((inputs, config.add_input), (outputs, config.add_output)):
            for tensor in tensors:
                if tensor.name not in given and tensor.data_type and tensor.dims is not None:
                    dims = list(tensor.dims[1:] if batch else tensor.dims) or [1]
                    add({"name": tensor.name, "data_type": tensor.data_type, "dims": dims})
        schedulers = ("sequence_batching", "dynamic_batching", "ensemble_scheduling")
        if batch and not any(scheduler in known for scheduler in schedulers):
            config.set_dynamic_batching()
        return config

    def initialize(self, args):
        """args: see python_backend. Raises: TritonModelException with one sentence to act on."""
        _die_with_server()
        import onnxruntime  # not at the top: auto-completion does without it

        self.name = args["model_name"]
        self.config = json.loads(args["model_config"])
        if self.config.get("sequence_batching", {}).get("state"):
            raise pb_utils.TritonModelException(
                f"{self.name}: implicit state (sequence_batching.state) needs Triton's own onnxruntime "
                "backend: run this model in NVIDIA's container"
            )
        folder = os.path.join(args["model_repository"], args["model_version"])
        path = _model_path(folder, self.config)
        if not os.path.exists(path):
            raise pb_utils.TritonModelException(f"{self.name}: there is no {path}")
        if self.config.get("optimization", {}).get("execution_accelerators"):
            pb_utils.Logger.log_warn(f"{self.name}: execution_accelerators are not used by this backend")
        try:
            self.session = onnxruntime.InferenceSession(
                path, _session_options(onnxruntime, self.config), providers=_providers(onnxruntime, args)
            )
        except Exception as error:
            text = str(error).splitlines()[0]
            raise pb_utils.TritonModelException(f"{self.name}: {path} does not load: {text}") from None
        self.batched = self.config["max_batch_size"] > 0
        self.inputs = {tensor.name: tensor for tensor in self.session.get_inputs()}
        self.outputs = [tensor["name"] for tensor in self.config["output"]]
        self._check_against_graph()

    def execute(self, requests):
        """One response per request; requests that fit together run as one batch."""
        groups = defaultdict(list)
        feeds = []
        responses = [None] * len(requests)
        for index, request in enumerate(requests):
            try:
                feed = {name: self._input(request, name) for name in self.inputs}
            except ValueError as error:
                responses[index] = _error(f"{self.name}: {error}")
                feeds.append(None)
                continue
            feeds.append(feed)
            # A sample's own shape: those alike can share a batch.
            shape = tuple(value.shape[1:] for value in feed.values()) if self.batched else index
            groups[shape].append(index)
        for members in groups.values():
            wanted = {name for index in members for name in requests[index].requested_output_names()}
            names = [name for name in self.outputs if name in wanted]
            try:
                for index, response in self._run(members, feeds, names, requests):
                    responses[index] = response
            except Exception as error:
                text = str(error).splitlines()[0] if str(error) else type(error).__name__
                for index in members:
                    responses[index] = _error(f"{self.name}: {text}")
        return responses

    def _run(self, members, feeds, names, requests):
        if len(members) == 1:
            feed = feeds[members[0]]
            counts = None
        else:
            feed = {name: np.concatenate([feeds[index][name] for index in members]) for name in self.inputs}
            counts = [len(next(iter(feeds[index].values()))) for index in members]
        results = [_encode(value) for value in self.session.run(names, feed)]
        at = 0
        for position, index in enumerate(members):
            mine = results
            if counts:
                end = at + counts[position]
                mine = [value[at:end] for value in results]
                at = end
            asked = set(requests[index].requested_output_names())
            yield (
                index,
                pb_utils.InferenceResponse(
                    [
                        pb_utils.Tensor(name, value)
                        for name, value in zip(names, mine, strict=True)
                        if name in asked
                    ]
                ),
            )

    def _input(self, request, name):
        tensor = pb_utils.get_input_tensor_by_name(request, name)
        if tensor is None:
            raise ValueError(f"input {name} is missing")
        value = tensor.as_numpy()
        if value.dtype == object:
            value = np.array([_decode(item) for item in value.ravel()], dtype=object).reshape(value.shape)
        if not self.inputs[name].shape and value.size == 1:
            value = value.reshape(())  # Triton has no scalars
        return value

    def _check_against_graph(self):
        controls = {
            control["name"]: control
            for control in self.config.get("sequence_batching", {}).get("control_input", [])
        }
        graph_outputs = {tensor.name: tensor for tensor in self.session.get_outputs()}
        given = {tensor["name"]: tensor for tensor in self.config["input"]}
        if not given and not controls:
            raise pb_utils.TritonModelException(
                f"{self.name}: config.pbtxt names no inputs, and the server runs without auto-completion"
            )
        for name in self.inputs:
            if name not in given and name not in controls:
                raise pb_utils.TritonModelException(
                    f"{self.name}: the graph has an input '{name}' that config.pbtxt does not name"
                )
        for kind, configured, graph in (
            ("input", given, self.inputs),
            ("output", {tensor["name"]: tensor for tensor in self.config["output"]}, graph_outputs),
        ):
            for name, tensor in configured.items():
                if name not in graph:
                    raise pb_utils.TritonModelException(
                        f"{self.name}: config.pbtxt names the {kind} '{name}', "
                        f"the graph has {', '.join(sorted(graph))}"
                    )
                expected = ORT_TYPES.get(graph[name].type, graph[name].type)
                if tensor["data_type"] != expected:
                    raise pb_utils.TritonModelException(
                        f"{self.name}: {kind} '{name}' is {expected} in the graph, "
                        f"config.pbtxt says {tensor['data_type']}"
                    )
                self._check_rank(kind, name, tensor, graph[name].shape)

    def _check_rank(self, kind, name, tensor, shape):
        if shape is None:
            return
        dims = tensor.get("reshape", {}).get("shape", tensor["dims"])
        rank = len(dims) + self.batched
        scalar = not shape and list(dims) == [1]
        if rank != len(shape) and not scalar:
            raise pb_utils.TritonModelException(
                f"{self.name}: {kind} '{name}' has {len(shape)} dimensions in the graph and {rank} in "
                f"config.pbtxt (max_batch_size {self.config['max_batch_size']} adds "
                f"{'one' if self.batched else 'none'})"
            )


def _model_path(folder, config):
    path = os.path.join(folder, config.get("default_model_filename") or "model.onnx")
    # A graph with external weights is a folder that holds a file of its own name.
    return os.path.join(path, os.path.basename(path)) if os.path.isdir(path) else path


def _can_batch(tensors, given):
    """Whether the first dimension of every tensor is free, and not named in the config as a data one."""
    for tensor in tensors:
        if not tensor.dims or tensor.dims[0] != -1:
            return False
        if tensor.name in given and len(given[tensor.name]["dims"]) == len(tensor.dims):
            return False
    return True


def _session_options(onnxruntime, config):
    options = onnxruntime.SessionOptions()
    values = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    options.intra_op_num_threads = int(values.get("intra_op_thread_count") or 0)
    options.inter_op_num_threads = int(values.get("inter_op_thread_count") or 0)
    if values.get("execution_mode") == "1":
        options.execution_mode = onnxruntime.ExecutionMode.ORT_PARALLEL
    options.enable_cpu_mem_arena = values.get("enable_mem_arena", "1") != "0"
    options.enable_mem_pattern = values.get("enable_mem_pattern", "1") != "0"
    # Idle threads must not spin: the models of one machine share its cores.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    for key, value in values.items():
        if key.startswith("session."):
            options.add_session_config_entry(key, value)
    levels = onnxruntime.GraphOptimizationLevel
    level = config.get("optimization", {}).get("graph", {}).get("level", 0)
    options.graph_optimization_level = {
        -1: levels.ORT_ENABLE_BASIC, 1: levels.ORT_ENABLE_EXTENDED, 2: levels.ORT_DISABLE_ALL,
    }.get(int(level), levels.ORT_ENABLE_ALL)  # fmt: skip
    return options


def _providers(onnxruntime, args):
    if args["model_instance_kind"] == "GPU":
        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            device = {"device_id": args["model_instance_device_id"]}
            return [("CUDAExecutionProvider", device), "CPUExecutionProvider"]
        pb_utils.Logger.log_warn("this onnxruntime has no CUDA: running on the CPU")
    return ["CPUExecutionProvider"]


def _encode(value):
    value = np.asarray(value)
    if value.dtype.kind in "OU":
        encoded = [item.encode() if isinstance(item, str) else bytes(item) for item in value.ravel()]
        array = np.empty(len(encoded), dtype=object)
        array[:] = encoded
        return array.reshape(value.shape)
    return np.atleast_1d(value)


def _decode(item):
    return item.decode("utf-8", "replace") if isinstance(item, bytes) else str(item)


def _error(text):
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(text))


def _die_with_server():
    """End this process when the server dies: a stub would wait for it for ever. Sleeps until then."""

    def watch(server):
        waiting = select.poll()
        waiting.register(server, select.POLLIN)
        waiting.poll()
        os._exit(1)

    try:
        server = os.pidfd_open(os.getppid())
    except (AttributeError, OSError):
        return
    threading.Thread(target=watch, args=(server,), name="server watch", daemon=True).start()
