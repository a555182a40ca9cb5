"""`parley models`: what a Triton has resident, why and for how long; load, unload, verify, logs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Coroutine
from typing import Any

from gateway.cli.common import Help, address, run
from gateway.cli.models.export import configure_export
from gateway.cli.models.pull_arguments import configure_catalogue, configure_pull
from gateway.cli.models.sync import configure_manifest, configure_sync
from gateway.cli.models.tensorrt_arguments import configure_gpu, configure_tensorrt

_EPILOG = """\
examples:
  parley models list                         what is resident, why, and what goes next
  parley models load tts_espeak
  parley models unload tts_espeak            refused while sessions use it, unless --force
  parley models status asr_pocketsphinx      exit code 0 when ready, 1 when not
  parley models verify                       would every model load, and does it keep its contract?
  parley models verify --repository DIR      the same without a Triton
  parley models pull kokoro                  a name of `parley models catalogue`, owner/name, URL or folder
  parley models export whisper random:small --out models
  parley models sync s3://bucket/models /models
  parley models logs -f tts_espeak
  parley models list --triton 10.0.0.7:8001 --json

Without --triton it is PARLEY_TRITON__URI, else the running stack's server (`parley up`), else
127.0.0.1:8001. Any Triton with --model-control-mode=explicit will do.
exit codes: 0 done, 1 tried and failed (or not ready), 2 wrong usage or settings.
"""

_VERBS = {
    "list": "every model: loaded or not, why, for how long, leased by whom; and what goes next",
    "status": "all that is known of some models; of the resident ones when none is named",
    "load": "load models and wait until they are ready; a newer version is put in place of the old one",
    "unload": "unload models and wait until they are gone",
    "verify": "would models load, and do they keep their contract? All of them when none is named",
    "export": "turn a checkpoint into model folders for Triton (ONNX), proven equal to torch",
    "tensorrt": "build TensorRT engines from exported models, or write all that a build needs",
    "gpu": "the name of this GPU, MIG slice and TensorRT, for folders of what was built for them",
    "pull": "bring a checkpoint or a model folder here: from the catalogue, a Hugging Face hub, a URL or a folder",
    "catalogue": "checkpoints that can be pulled by name: family, size, licence, languages",
    "sync": "make a repository like another, checked: from a folder or an object store (an init container)",
    "manifest": "write the SHA-256 sums of a repository's files, which `sync` checks",
    "logs": "what the running stack's Triton and its models wrote",
}
_OWN = {
    "export": configure_export,
    "tensorrt": configure_tensorrt,
    "gpu": configure_gpu,
    "pull": configure_pull,
    "catalogue": configure_catalogue,
    "sync": configure_sync,
    "manifest": configure_manifest,
}
"""Verbs that are about no running Triton."""
_NAMES = {"status": "*", "load": "+", "unload": "+", "verify": "*"}


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb, summary in _VERBS.items():
        one = verbs.add_parser(verb, help=summary, description=summary, formatter_class=Help)
        if verb in _OWN:
            _OWN[verb](one)
            continue
        if verb in _NAMES:
            one.add_argument("names", nargs=_NAMES[verb], metavar="MODEL")
        one.add_argument("--triton", type=address, metavar="ADDR", help="Triton's gRPC address")
        if verb == "logs":
            one.add_argument("model", nargs="?", default="", metavar="MODEL", help="only what is about it")
            one.add_argument("-f", "--follow", action="store_true", help="go on with what comes")
            one.add_argument(
                "-n",
                "--lines",
                type=_count,
                default=50,
                metavar="N",
                help="last lines shown first (50); 0: all",
            )
            continue
        one.add_argument("--json", action="store_true", help="JSON on stdout")
        one.add_argument(
            "--key",
            default="",
            metavar="KEY=VALUE",
            help="of a restricted model repository API (better in PARLEY_TRITON__REPOSITORY_KEY: "
            "others can see a command line)",
        )
        if verb in ("list", "status", "verify"):
            one.add_argument(
                "--repository",
                action="append",
                metavar="DIR",
                help="model repository to read beside Triton"
                if verb != "verify"
                else "check this repository, without a Triton (may be given several times)",
            )
        if verb == "verify":
            one.add_argument(
                "--no-triton",
                action="store_true",
                help="prove exported models in ONNX Runtime alone, without a Triton of their own",
            )
        if verb in ("load", "unload"):
            one.add_argument("--deadline", type=_seconds, metavar="S", help="longest wait for each, seconds")
        if verb == "unload":
            one.add_argument(
                "--force", action="store_true", help="also while sessions use it: they lose their model"
            )
    parser.set_defaults(run=lambda options: run(_verb(options.verb)(options)))


def _verb(name: str) -> Callable[[argparse.Namespace], Coroutine[Any, Any, int]]:
    """Imported when it is used: what one needs, others do not."""
    if name == "list":
        from gateway.cli.models.listing import run_list as found
    elif name == "status":
        from gateway.cli.models.status import run_status as found
    elif name == "load":
        from gateway.cli.models.change import run_load as found
    elif name == "unload":
        from gateway.cli.models.change import run_unload as found
    elif name == "verify":
        from gateway.cli.models.verify import run_verify as found
    elif name == "export":
        from gateway.cli.models.export import run_export_verb as found
    elif name == "tensorrt":
        from gateway.cli.models.tensorrt import run_tensorrt as found
    elif name == "gpu":
        from gateway.cli.models.tensorrt import run_gpu as found
    elif name == "pull":
        from gateway.cli.models.pull import run_pull_verb as found
    elif name == "catalogue":
        from gateway.cli.models.catalogue import run_catalogue_verb as found
    elif name == "sync":
        from gateway.cli.models.sync import run_sync as found
    elif name == "manifest":
        from gateway.cli.models.sync import run_manifest as found
    else:
        from gateway.cli.models.logs import run_logs as found
    return found


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 86_400:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of lines")
    return int(text)
