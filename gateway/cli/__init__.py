"""The `parley` command. Each subcommand is a module beside this one, imported only when it is used."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from gateway import __version__

_COMMANDS = {
    "up": "start the whole stack in this terminal",
    "serve": "start one part: gateway, speech or llm",
    "talk": "hold a conversation: microphone, WAV file or text",
    "keys": "make, list, replace and revoke API keys",
    "models": "list, load and unload the models of a Triton",
    "drain": "let a part end its work before it is stopped: the preStop hook of its container",
    "doctor": "say what is missing on this machine, and what runs",
}

_DESCRIPTION = """\
Parley: a self-hosted voice stack. Speech models live in NVIDIA Triton; a thin gateway holds the
conversation.
"""

_EPILOG = """\
examples:
  parley up                              the whole stack on this machine, CPU only
  parley talk --mic                      talk to it (in another terminal)
  parley talk --wav question.wav --out answer.wav
  parley talk --text "What time is it?"
  parley models list
  parley doctor

Settings come from PARLEY_* variables or the YAML file that PARLEY_CONFIG names, for example
PARLEY_LLM__BASE_URL, PARLEY_ASR__URI, PARLEY_TTS__VOICE. `parley COMMAND --help` says more.
exit codes: 0 done, 1 tried and failed, 2 wrong usage or settings, 3 refused for want of a good API key.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code; ordinary mistakes become one sentence on stderr."""
    argv = list(sys.argv[1:] if arguments is None else arguments)
    from gateway.cli.common import FAILED, Fault, Help, complain

    parser = argparse.ArgumentParser(
        prog="parley", description=_DESCRIPTION, epilog=_EPILOG, formatter_class=Help
    )
    parser.add_argument("--version", action="version", version=f"parley {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    chosen = next((word for word in argv if not word.startswith("-")), None)
    for name, summary in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary, formatter_class=Help)
        if name == chosen:
            importlib.import_module(f"gateway.cli.{name}").configure(command)
    options = parser.parse_args(argv)
    try:
        return int(options.run(options))
    except Fault as fault:
        complain(str(fault))
        return fault.code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output left; there is nobody to tell
        return FAILED
