"""Whether Triton could load a model folder, said before Triton is asked.

Its own words for most of this are "failed to poll from model repository". Nothing here runs or imports
a model's code, and nothing is read: a `ModelFolder` holds what is needed.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Collection, Iterator

from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInstanceGroup

from gateway.triton.catalogue.contract import check_contract
from gateway.triton.catalogue.findings import Finding, error, first_error, warning
from gateway.triton.catalogue.folder import CONFIG, BadConfig, ModelFolder
from gateway.triton.catalogue.machine import Machine
from gateway.triton.catalogue.parameters import check_parameters
from gateway.triton.model_info import YES, is_complete

_PARSING = threading.Lock()
"""CPython 3.11 counts the depth of a tree for all threads together: two at a time end in a SystemError."""
_FILES = {
    "python": "model.py",
    "onnxruntime": "model.onnx",
    "tensorrt": "model.plan",
    "pytorch": "model.pt",
    "openvino": "model.xml",
    "dali": "model.dali",
    "vllm": "model.json",
}
"""The file of a version, by backend; others keep theirs as they like."""
_PLATFORMS = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt", "pytorch_libtorch": "pytorch"}
_OWN_PYTHON = "EXECUTION_ENV_PATH"
_WORDS = {"lib": "the library lib{}", "python": "the Python package {}"}
_GPU_ONLY = ("tensorrt", "tensorrt_llm", "tensorrtllm")


def validate(
    folder: ModelFolder,
    *,
    machine: Machine | None = None,
    siblings: Collection[str] | None = None,
    contract: bool = True,
) -> list[Finding]:
    """Everything that is wrong with a model folder, errors first; empty when there is nothing.

    machine: what Triton has; None where that is not known.
    siblings: names of all models of all repositories, for ensembles; None where they are not known.
    contract: hold `asr_*` and `tts_*` models against their contract as well.
    """
    try:
        config = folder.config()
    except BadConfig as bad:
        return [error(f"it cannot be read: {bad}", _file(folder), bad.line)]
    found = [*_structure(folder, config), *_machine(folder, config, machine or Machine())]
    found += _ensemble(folder, config, siblings)
    found += check_parameters(folder, config)
    if contract:
        found += check_contract(folder, config)
    return sorted(found, key=lambda one: one.level == "warning")


def problem(findings: list[Finding]) -> str:
    """Why the model cannot be used, in a sentence; "" when it can."""
    worst = first_error(findings)
    return str(worst) if worst else ""


def backend_of(folder: ModelFolder, config: ModelConfig) -> str:
    """As the config says, else as the files of the newest version do; "" when neither does."""
    if config.platform == "ensemble":
        return "ensemble"
    named = config.backend or _PLATFORMS.get(config.platform, config.platform)
    if named:
        return str(named)
    version = (folder.versions() or [0])[-1]
    return next((name for name, file in _FILES.items() if _has(folder, version, file)), "")


def _structure(folder: ModelFolder, config: ModelConfig) -> Iterator[Finding]:
    file = _file(folder)
    if config.name != folder.name:
        yield error(
            f'the model is called "{config.name}" and its folder "{folder.name}": Triton wants the same name',
            file,
            folder.line_of("name", config.name),
        )
    backend = backend_of(folder, config)
    if not backend:
        yield error(
            'no backend: name one (backend: "python") or add the model\'s file (model.py, model.onnx, …)',
            file if CONFIG in folder.entries else folder.where,
        )
    if CONFIG in folder.entries and CONFIG not in folder.texts:
        yield error("it cannot be read", file)
    versions = folder.versions()
    if not versions:
        yield _no_version(folder)
        return
    for name in sorted(folder.entries):
        if name.count("/") == 1 and name.endswith("/") and name[0].isdigit() and not _is_version(name[:-1]):
            yield warning(f"folder {name[:-1]} is no version (1, 2, 3, …) and is left out", folder.where)
    policy = config.version_policy
    wanted = versions[-1:]
    if policy.HasField("specific"):
        wanted = list(policy.specific.versions)
    elif policy.HasField("all"):
        wanted = versions
    elif policy.HasField("latest"):
        wanted = versions[-max(1, policy.latest.num_versions) :]
    for version in wanted:
        yield from _version(folder, config, backend, version)


def _no_version(folder: ModelFolder) -> Finding:
    others = sorted(name[:-1] for name in folder.entries if name.endswith("/"))
    if others:
        return error(
            f"no version folder: {others[0]} is not a number (1, 2, 3, …); rename it to 1", folder.where
        )
    return error("no version folder: the model's files belong into a folder called 1", folder.where)


def _version(folder: ModelFolder, config: ModelConfig, backend: str, version: int) -> Iterator[Finding]:
    where = f"{folder.where}/{version}"
    if f"{version}/" not in folder.entries:
        yield error(f"version_policy wants version {version}, which has no folder", _file(folder))
        return
    wanted = config.default_model_filename or _FILES.get(backend, "")
    if not wanted or backend == "ensemble":
        return
    if not _has(folder, version, wanted):
        yield error(f"{wanted} is missing, which the {backend} backend loads", where)
    own_python = _OWN_PYTHON in config.parameters
    for entry in sorted(folder.texts):
        if backend == "python" and entry.startswith(f"{version}/") and not own_python:
            yield from _python(f"{folder.where}/{entry}", folder.texts[entry], entry == f"{version}/{wanted}")


def _python(file: str, source: bytes, is_model: bool) -> Iterator[Finding]:
    """A model with a Python of its own is left alone: ours may not know its syntax."""
    try:
        with _PARSING:
            tree = ast.parse(source, file)
    except SyntaxError as bad:
        yield error(f"Python cannot read it: {bad.msg}", file, bad.lineno or 0)
        return
    except ValueError as bad:  # a null byte
        yield error(f"Python cannot read it: {bad}", file)
        return
    if is_model and not _binds(tree, "TritonPythonModel"):
        yield error("no class TritonPythonModel, which the python backend looks for", file)


def _binds(tree: ast.Module, name: str) -> bool:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return True
        if isinstance(node, ast.ImportFrom | ast.Import) and any(
            (one.asname or one.name) in (name, "*") for one in node.names
        ):
            return True
        if isinstance(node, ast.Name) and node.id == name and isinstance(node.ctx, ast.Store):
            return True
    return False


def _machine(folder: ModelFolder, config: ModelConfig, machine: Machine) -> Iterator[Finding]:
    file, backend = _file(folder), backend_of(folder, config)
    known = machine.backends
    own = f"libtriton_{backend}.so"
    carried = any(entry.rpartition("/")[2] == own for entry in folder.entries)
    if known is not None and backend and backend != "ensemble" and backend not in known and not carried:
        has = ", ".join(sorted(known))
        yield error(
            f'this Triton has no backend "{backend}", only {has}', file, folder.line_of(f'"{backend}"')
        )
    missing = [need for need in _needs(config) if machine.has is not None and not machine.has(need)]
    if missing:
        install = config.parameters["install"].string_value if "install" in config.parameters else ""
        what = " and ".join(_WORDS[need.partition(":")[0]].format(need.partition(":")[2]) for need in missing)
        fix = f": {install}" if install else ""
        yield error(f"it needs {what}, which this machine has not{fix}", file, folder.line_of('"needs"'))
    if machine.gpus != 0:
        return
    asked = config.parameters["needs_gpu"].string_value.lower() if "needs_gpu" in config.parameters else ""
    if asked in YES:
        yield error(
            "it needs a GPU (needs_gpu), and this machine has none", file, folder.line_of("needs_gpu")
        )
    elif any(group.kind == ModelInstanceGroup.KIND_GPU for group in config.instance_group):
        yield error(
            "its instance_group asks for KIND_GPU, and this machine has no GPU",
            file,
            folder.line_of("KIND_GPU"),
        )
    elif backend in _GPU_ONLY:
        yield error(f"the {backend} backend needs a GPU, and this machine has none", file)


def _needs(config: ModelConfig) -> list[str]:
    """What must be installed; Python packages of a model with a Python of its own are its own affair."""
    said = config.parameters["needs"].string_value if "needs" in config.parameters else ""
    own = _OWN_PYTHON in config.parameters
    needs = [need.strip() for need in said.split(",")]
    return [need for need in needs if need.startswith("lib:" if own else ("lib:", "python:"))]


def _ensemble(
    folder: ModelFolder, config: ModelConfig, siblings: Collection[str] | None
) -> Iterator[Finding]:
    steps = [step.model_name for step in config.ensemble_scheduling.step]
    if config.platform == "ensemble" and not steps:
        yield error("an ensemble without steps", _file(folder))
    for name in dict.fromkeys(steps):
        if name == folder.name:
            yield error("a step of the ensemble is the ensemble itself", _file(folder), folder.line_of(name))
        elif siblings is not None and name not in siblings:
            line = folder.line_of("model_name", f'"{name}"')
            yield error(f"its step {name} is in none of the repositories", _file(folder), line)
    if CONFIG in folder.entries and not is_complete(config) and config.platform == "ensemble":
        yield error("an ensemble names its inputs and outputs", _file(folder))


def _has(folder: ModelFolder, version: int, file: str) -> bool:
    return bool({f"{version}/{file}", f"{version}/{file}/"} & folder.entries)


def _is_version(name: str) -> bool:
    return name.isdecimal() and not name.startswith("0")


def _file(folder: ModelFolder) -> str:
    return f"{folder.where}/{CONFIG}"
