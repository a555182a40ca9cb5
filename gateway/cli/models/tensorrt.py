"""`parley models tensorrt`: engines from exported graphs, where there is a GPU; else all that a build needs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gateway.cli.common import FAILED, OK, USAGE, Fault, load_settings
from gateway.cli.models.proof import print_proofs
from gateway.cli.models.tensorrt_arguments import GPU
from gateway.triton.exported.environment import ExportUnavailable, cache_folder
from gateway.triton.models.graphs import GraphError, read_spec
from gateway.triton.proof.prove import graphs_of, is_exported
from gateway.triton.proof.proved import Proved
from gateway.triton.tensorrt.build import build_engine
from gateway.triton.tensorrt.machine import Builder, find_builder
from gateway.triton.tensorrt.prepare import prepare, write_plan_folder
from gateway.triton.tensorrt.process import BuildFailed
from gateway.triton.tensorrt.profiles import Profile, profiles_of
from gateway.triton.tensorrt.script import STRONG_TYPING
from gateway.triton.tensorrt.source import Source, source_of


async def run_tensorrt(options: argparse.Namespace) -> int:
    """Exit code 1 when an engine was not built, or does not say what torch said."""
    folders = _graphs(Path(options.repository), options.model)
    _is_not_theirs(options.out, folders)
    builder, missing = (None, "") if options.prepare_only else await find_builder(options.python)
    if missing and options.python:
        raise Fault(missing)
    if builder is not None and options.out is None:
        raise Fault("--out is missing: a repository for the tensorrt_plan folders", USAGE)
    version = builder.tensorrt if builder else options.tensorrt or str(STRONG_TYPING)
    engines = options.engines.replace(GPU, builder.place) if builder else options.engines
    proofs: list[Proved] = []
    try:
        for folder in folders:
            spec = read_spec(folder)
            profiles = profiles_of(spec, buckets=options.profiles, usual_batch=options.batch)
            source = await source_of(folder, version, options.precision)
            place = prepare(
                spec, folder, source.onnx, profiles,
                precision=source.precision, version=version, engines=engines,
            )  # fmt: skip
            if source.why:
                print(f"{source.why}; it is one for FP32")
            print(
                f"{folder.name}: profiles and build.sh in {place}, ONNX Runtime's way in configs/tensorrt.pbtxt"
            )
            if builder is not None:
                proofs.append(await _build(options, folder, source, builder, profiles))
    except OSError as error:
        where = error.filename or options.repository
        raise Fault(
            f"{where}: {(error.strerror or str(error)).lower()}; profiles and scripts are written into the models' folders"
        ) from None
    except (ValueError, GraphError, BuildFailed, ExportUnavailable) as error:
        raise Fault(str(error)) from None
    if missing:
        print(f"no engine was built: {missing}. Run build.sh, or this command, on a machine with both.")
    if proofs:
        print_proofs(proofs)
    return OK if all(one.ok for one in proofs) else FAILED


async def _build(
    options: argparse.Namespace, folder: Path, source: Source, builder: Builder, profiles: Sequence[Profile]
) -> Proved:
    spec = read_spec(folder)
    cache = engine_cache(options)
    engine = await build_engine(
        spec, folder, source.onnx, profiles, builder, precision=source.precision, cache=cache
    )
    if not engine.parity.ok and source.precision == "fp16":
        why = f"{folder.name} does not stand FP16: off by {engine.parity.worst:.2g}, {engine.parity.note}"
        print(f"{why}; it is built in FP32")
        source = Source(folder / "1" / "model.onnx", "fp32", why)
        prepare(
            spec, folder, source.onnx, profiles,
            precision=source.precision, version=builder.tensorrt,
            engines=options.engines.replace(GPU, builder.place),
        )  # fmt: skip
        engine = await build_engine(
            spec, folder, source.onnx, profiles, builder, precision=source.precision, cache=cache
        )
    parity = (
        replace(engine.parity, note=source.why or engine.parity.note) if engine.parity.ok else engine.parity
    )
    if not parity.ok:
        print(f"{folder.name}: no tensorrt_plan was written, for the engine does not say what torch said")
        return parity
    out = Path(options.out.replace(GPU, builder.place))
    told = {
        "tensorrt": builder.tensorrt, "compute_capability": builder.compute_capability,
        "precision": source.precision,
    }  # fmt: skip
    if source.why:
        told["precision_why"] = source.why
    made = write_plan_folder(spec, folder, engine.plan, profiles, out, told)
    print(f"{made}: {'from the cache' if engine.cached else 'built'} for {builder.gpu}")
    return parity


def engine_cache(options: argparse.Namespace) -> Path:
    """--cache, else the setting, else this user's own."""
    named = options.cache or load_settings().triton.engine_cache
    return Path(named) if named else cache_folder() / "engines"


async def run_gpu(options: argparse.Namespace) -> int:
    """Prints the folder's name of what is built here."""
    builder, missing = await find_builder(options.python)
    if builder is None:
        raise Fault(missing)
    print(builder.place)
    return OK


def _graphs(repository: Path, model: str) -> list[Path]:
    folder = repository / model
    if is_exported(folder):
        try:
            found = graphs_of(folder)
        except GraphError as error:
            raise Fault(str(error)) from None
        if not found:
            raise Fault(f"{model} has no graphs to build from: its own library runs it (triton/families)")
        return found
    if (folder / "graph.json").exists():
        return [folder]
    raise Fault(f"{folder} is no exported model and none of its graphs; `parley models export` makes them")


def _is_not_theirs(out: str | None, folders: Sequence[Path]) -> None:
    """Said before an hour of building, not after it. Raises: Fault."""
    if out and any(Path(out).resolve() == folder.parent.resolve() for folder in folders):
        raise Fault(f"{out} holds the ONNX models: --out is a repository of its own for the plans", USAGE)
