"""What `parley models tensorrt` takes, apart from what it does: `parley models --help` needs no numpy."""

from __future__ import annotations

import argparse

from gateway.triton.tensorrt.configs import ENGINES
from gateway.triton.tensorrt.keys import PRECISIONS

GPU = "{gpu}"


def configure_gpu(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--python",
        default="",
        metavar="PYTHON",
        help="whose tensorrt wheel counts (trtexec's, else this one's)",
    )


def _version(text: str) -> str:
    if not all(part.isdecimal() for part in text.split(".")):
        raise argparse.ArgumentTypeError(f"{text} is no version of TensorRT; one is 10.13.3, or 11")
    return text


def configure_tensorrt(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="an exported model, or one of its graphs")
    parser.add_argument("--repository", required=True, metavar="DIR", help="where it lies")
    parser.add_argument(
        "--out",
        metavar="DIR",
        help=f"repository for the tensorrt_plan folders (needed to build); {GPU} in it is what `parley models gpu` prints",
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    parser.add_argument(
        "--profiles", type=int, default=1, metavar="N", help="share the longest axis between N"
    )
    parser.add_argument(
        "--batch", type=int, default=0, metavar="N", help="batch to be fastest for (half of most)"
    )
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="of engines and timings (PARLEY_TRITON__ENGINE_CACHE, else ~/.cache/parley/engines)",
    )
    parser.add_argument(
        "--engines", default=ENGINES, metavar="DIR", help=f"the volume that Triton compiles into ({ENGINES})"
    )
    parser.add_argument(
        "--tensorrt",
        type=_version,
        metavar="VERSION",
        help="to write for, where none is here (11)",
    )
    parser.add_argument(
        "--python",
        default="",
        metavar="PYTHON",
        help="an interpreter whose tensorrt wheel builds (trtexec, else this one's)",
    )
    parser.add_argument(
        "--prepare-only", action="store_true", help="write profiles, config and script, build nothing"
    )
