"""What is written for a graph before anything is built: profiles, the provider's config, the build script."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from gateway.triton.exported.description import Graph
from gateway.triton.model_info import read_config
from gateway.triton.tensorrt.build import PLAN, TIMING
from gateway.triton.tensorrt.configs import ENGINES, PROVIDER, plan_config, provider_config
from gateway.triton.tensorrt.profiles import Profile
from gateway.triton.tensorrt.script import build_script, trtexec_command

FOLDER = "tensorrt"
"""In the graph's model folder."""


def parameters_of(folder: Path) -> dict[str, str]:
    """Of the graph's own config."""
    found = {key: one.string_value for key, one in read_config(folder).parameters.items()}
    found.pop("intra_op_thread_count", None)
    return found


def prepare(
    graph: Graph,
    folder: Path,
    onnx: Path,
    profiles: Sequence[Profile],
    *,
    precision: str,
    version: str,
    engines: str = ENGINES,
) -> Path:
    """Writes configs/tensorrt.pbtxt and tensorrt/{profiles.json, build.sh}; the folder of the latter.

    The configuration is for model.onnx, or for `onnx` where that is another: a copy of it is put beside model.onnx.

    onnx: what is built from. version: of TensorRT, or its major version where it is not known yet.
    """
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    told = [{name: [list(s) for s in three] for name, three in one.shapes.items()} for one in profiles]
    (place / "profiles.json").write_text(json.dumps(told, indent=1), "utf-8")
    command = trtexec_command(
        Path(os.path.relpath(onnx, place)),
        Path(PLAN),
        Path(TIMING),
        profiles,
        version=version,
        precision=precision,
    )
    script = place / "build.sh"
    about = f"Builds {folder.name} for TensorRT {version}, {precision}; written by `parley models tensorrt`."
    script.write_text(build_script([command], about=about), "utf-8")
    script.chmod(0o755)
    # What is in half precision already lies beside the model too: the provider is told of nothing else.
    filename = "" if onnx.parent == folder / "1" else onnx.name
    if filename:
        shutil.copyfile(onnx, folder / "1" / filename)
    (folder / PROVIDER).parent.mkdir(exist_ok=True)
    (folder / PROVIDER).write_text(
        provider_config(
            folder.name,
            graph,
            parameters_of(folder),
            profiles,
            cache=f"{engines}/{folder.name}",
            precision=precision,
            tensorrt_major=int(version.split(".")[0]),
            filename=filename,
        ),
        "utf-8",
    )
    return place


def write_plan_folder(
    graph: Graph, folder: Path, plan: Path, profiles: Sequence[Profile], out: Path, told: Mapping[str, str]
) -> Path:
    """The graph's `tensorrt_plan` model in the repository `out`, which is not the one it came from.

    told: what to say of the engine in its parameters. Raises: ValueError, OSError.
    """
    if out.resolve() == folder.parent.resolve():
        raise ValueError(f"{out} holds the ONNX models themselves: plans go into a repository of their own")
    place = out / folder.name
    work = out / f".{folder.name}.{os.getpid()}"
    shutil.rmtree(work, ignore_errors=True)
    (work / "1").mkdir(parents=True)
    try:
        shutil.copyfile(plan, work / "1" / PLAN)
        for name in ("graph.json", "reference.npz"):
            shutil.copyfile(folder / name, work / name)
        parameters = {**parameters_of(folder), **told}
        config = plan_config(folder.name, graph, parameters, profiles=len(profiles))
        (work / "config.pbtxt").write_text(config, "utf-8")
        if graph.states:
            (work / "configs").mkdir()
            implicit = plan_config(folder.name, graph, parameters, profiles=len(profiles), implicit=True)
            (work / "configs" / "implicit.pbtxt").write_text(implicit, "utf-8")
        shutil.rmtree(place, ignore_errors=True)
        os.rename(work, place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return place
