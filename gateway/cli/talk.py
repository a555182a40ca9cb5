"""`parley talk`: a conversation from the command line."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from gateway.cli import endpoints
from gateway.cli.client import REFUSALS, Arrival, CallFailed, VoiceClient
from gateway.cli.common import FAILED, INTERRUPTED, OK, REFUSED, USAGE, Fault, address, api_key, run
from gateway.cli.conversation import Conversation
from gateway.cli.microphone import SteadyMicrophone
from gateway.cli.secure import add_tls_options, security_of
from gateway.cli.steady import SteadyClient
from gateway.cli.view import HumanView, JsonView, View
from gateway.cli.wav import read_speech, write_wav
from gateway.session.events import Configure, Hello, TextIn

_IN_RATE, _OUT_RATE = 16_000, 24_000

_EPILOG = """\
examples:
  parley talk --mic                          speak and listen; echo is cancelled
  parley talk --wav question.wav --out answer.wav
  parley talk --text "What time is it?" --text "Tell me a story"
  parley talk --text Hello --server voice.example:443 --tls
  parley talk --wav question.wav --json | jq -r 'select(.type=="transcript" and .final) | .text'

--wav streams the file at real time, goes on with silence until the last reply was heard, then hangs
up. --out holds the reply alone, mono, as it was heard. exit codes: 0 a reply came, 1 none came or
the call failed, 2 wrong usage, 3 refused for want of a good API key.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "--mic", action="store_true", help="microphone and loudspeaker, with echo cancellation"
    )
    source.add_argument(
        "--wav", type=Path, metavar="IN", help="an audio file: WAV, FLAC or Ogg Opus, any rate"
    )
    source.add_argument(
        "--text", action="append", metavar="TEXT", help="type instead of speaking; repeatable"
    )
    parser.add_argument("--out", type=Path, metavar="OUT", help="write the reply's audio to this WAV file")
    parser.add_argument(
        "--server",
        type=address,
        metavar="ADDR",
        help="the gateway's gRPC address (default: the running stack)",
    )
    add_tls_options(parser)
    parser.add_argument(
        "--api-key",
        metavar="KEY",
        help="where the gateway asks for one (PARLEY_API_KEY, which `ps` does not show)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON line per event on stdout")
    parser.add_argument(
        "--session", default="", metavar="ID", help="session id (default: the server makes one)"
    )
    parser.add_argument("--language", metavar="TAG", help="BCP-47, as in en-US")
    parser.add_argument("--voice", metavar="NAME", help="voice of the replies")
    parser.add_argument("--model", metavar="NAME", help="TTS model of the replies")
    parser.add_argument("--policy", metavar="NAME", help="the server's routing policy")
    parser.add_argument("--instructions", metavar="TEXT", help="system prompt of this session")
    parser.add_argument(
        "--no-reconnect",
        dest="reconnect",
        action="store_false",
        help="end when the line is lost or the server shuts down",
    )
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    code = run(_talk(options))
    return OK if options.mic and code == INTERRUPTED else code  # Ctrl-C is how one hangs up


async def _talk(options: argparse.Namespace) -> int:
    if options.mic and options.out is not None:
        raise Fault("--out goes with --wav or --text; --mic plays the reply itself", USAGE)
    server = options.server or endpoints.find("grpc", default="127.0.0.1:50050")
    hello = Hello(
        session_id=options.session,
        input_rate=_IN_RATE,
        output_rate=_OUT_RATE,
        configure=Configure(
            instructions=options.instructions,
            language=options.language,
            voice=options.voice,
            model=options.model,
            policy=options.policy,
        ),
    )
    security = security_of(options)
    if options.mic:
        from gateway.cli.mic import talk_live

        key = api_key(options.api_key)
        return await talk_live(
            server,
            hello,
            as_json=options.json,
            security=security,
            key=key,
            reconnect=options.reconnect,
        )
    speech = await asyncio.to_thread(_read_wav, options.wav) if options.wav is not None else b""
    if options.out is not None and not options.out.absolute().parent.is_dir():
        raise Fault(f"cannot write {options.out}: there is no folder {options.out.absolute().parent}", USAGE)
    try:
        key = api_key(options.api_key)

        def make(asked: Hello, connect_s: float) -> VoiceClient:
            return VoiceClient(server, asked, connect_s=connect_s, security=security, api_key=key)

        async with SteadyClient(make, hello, reconnect=options.reconnect) as client:
            return await _converse(client, options, speech)
    except CallFailed as failure:
        raise Fault(str(failure), REFUSED if failure.status in REFUSALS else FAILED) from None


async def _converse(client: SteadyClient, options: argparse.Namespace, speech: bytes) -> int:
    began = asyncio.get_running_loop().time()
    view: View = JsonView(began) if options.json else HumanView(began)
    talk = Conversation(client.player)
    client.on_gap = view.note
    try:
        show_ready(client, view, began)
        listening = asyncio.create_task(listen(client, talk, view))
        if options.wav is not None:
            settled = await _speak(client, talk, speech)
        else:
            settled = await _type(client, talk, options.text)
        if not settled:
            view.note("no answer came in time")
        if not listening.done():
            try:
                await client.hang_up()
            except CallFailed:
                pass  # over already: whoever listens knows why
        try:
            async with asyncio.timeout(5):
                await listening
        except TimeoutError:
            view.note("the server did not close the session in time")
    finally:
        view.close()
    seconds = asyncio.get_running_loop().time() - began
    if options.out is not None:
        await asyncio.to_thread(write_wav, options.out, client.player.mix(began, seconds), _OUT_RATE)
        view.note(f"wrote {options.out}")
    if not talk.answered:
        view.note("no reply was heard")
    return OK if talk.answered else FAILED


def show_ready(client: SteadyClient, view: View, began: float) -> None:
    assert client.ready is not None
    view.show(Arrival(began, client.ready))


async def listen(client: SteadyClient, talk: Conversation, view: View) -> None:
    """Show and record everything until the stream ends. Raises CallFailed when it breaks."""
    try:
        async for arrival in client:
            talk.on(arrival)
            view.show(arrival)
    finally:
        talk.over()


async def _speak(client: SteadyClient, talk: Conversation, speech: bytes) -> bool:
    microphone = SteadyMicrophone(client)
    microphone.start()
    try:
        await microphone.say(speech)
        return await talk.settled(quiet_s=1.2, at_least_s=3.0)
    except CallFailed:
        return False  # whoever listens says why
    finally:
        await microphone.stop()


async def _type(client: SteadyClient, talk: Conversation, texts: list[str]) -> bool:
    loop = asyncio.get_running_loop()
    for text in texts:
        words = text.encode("utf-8", "replace").decode()
        talk.asked(loop.time())
        await client.send(TextIn(words))
        if not await talk.settled(quiet_s=0.3):
            return False
    return True


def _read_wav(path: Path) -> bytes:
    return read_speech(path, _IN_RATE).astype("<i2").tobytes()
