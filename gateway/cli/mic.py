"""`parley talk --mic`: microphone and loudspeaker through PortAudio, echo cancelled by WebRTC's APM.

Needs the `mic` extra. PortAudio calls from its own threads; they only move bytes. The client plays
what the server paces, so what is in the loudspeaker's buffer is all that a flush has to drop.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from typing import Any

from gateway.cli.client import REFUSALS, CallFailed, VoiceClient
from gateway.cli.common import FAILED, OK, REFUSED, Fault
from gateway.cli.conversation import Conversation
from gateway.cli.steady import SteadyClient
from gateway.cli.view import HumanView, JsonView, View
from gateway.session.events import Flushed, Hello, ReplyAudio
from gateway.tls.client import ClientSecurity

_RATE = 48_000
"""What sound cards speak; the server resamples."""
_BLOCK = _RATE // 100
"""10 ms: the unit of WebRTC's audio processing."""
_MIC_BLOCKS = 100
"""1 s of microphone audio may wait for the network; then the oldest is dropped."""

_INSTALL = "pip install 'parley[mic]'"


async def talk_live(
    server: str,
    hello: Hello,
    *,
    as_json: bool,
    security: ClientSecurity | None = None,
    key: str = "",
    reconnect: bool = True,
) -> int:
    """Until Ctrl-C or until the server closes. Raises Fault without devices or packages."""
    sound = _Sound(asyncio.get_running_loop())
    asked = Hello(hello.session_id, _RATE, _RATE, hello.configure, hello.lead_ms)
    began = asyncio.get_running_loop().time()

    def make(hello: Hello, connect_s: float) -> VoiceClient:
        return VoiceClient(
            server, hello, connect_s=connect_s, keep_audio=False, security=security, api_key=key
        )

    try:
        async with SteadyClient(make, asked, reconnect=reconnect) as client:
            view: View = JsonView(began) if as_json else HumanView(began)
            client.on_gap = view.note
            talk = Conversation(client.player)
            try:
                sound.open()
                view.note("speak; Ctrl-C hangs up")
                sending = asyncio.create_task(_send(client, sound))
                try:
                    async for arrival in client:
                        talk.on(arrival)
                        view.show(arrival)
                        if isinstance(arrival.event, ReplyAudio):
                            sound.play(arrival.event)
                        elif isinstance(arrival.event, Flushed):
                            sound.flush(arrival.event.generation)
                finally:
                    sending.cancel()
                    await asyncio.wait({sending})
            finally:
                sound.close()
                view.close()
    except CallFailed as failure:
        raise Fault(str(failure), REFUSED if failure.status in REFUSALS else FAILED) from None
    return OK if talk.answered else FAILED


async def _send(client: SteadyClient, sound: _Sound) -> None:
    try:
        while True:
            await client.send_audio(await sound.captured())
    except CallFailed:
        return  # whoever reads the stream says why


class _Sound:
    """The devices and the echo canceller between them."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            import sounddevice
            from livekit import rtc
        except ImportError as error:
            raise Fault(f"the microphone needs the package {error.name}; install it: {_INSTALL}") from None
        except OSError:
            raise Fault(
                "the microphone needs the PortAudio library; install it: apt-get install libportaudio2"
            ) from None
        self._device: Any = sounddevice
        self._frame: Any = rtc.AudioFrame
        self._apm: Any = rtc.AudioProcessingModule(
            echo_cancellation=True, noise_suppression=True, high_pass_filter=True, auto_gain_control=True
        )
        self._loop = loop
        self._lock = threading.Lock()
        self._ahead: deque[tuple[int, bytes]] = deque()
        self._partial: tuple[int, bytes] = (0, b"")
        self._flushed = -1
        self._heard: deque[bytes] = deque(maxlen=_MIC_BLOCKS)
        self._arrived = asyncio.Event()
        self._streams: list[Any] = []

    def open(self) -> None:
        """Raises Fault when there is no device."""
        options = {
            "samplerate": _RATE,
            "blocksize": _BLOCK,
            "channels": 1,
            "dtype": "int16",
            "latency": "low",
        }
        try:
            self._streams.append(self._device.RawOutputStream(callback=self._on_output, **options))
            self._streams.append(self._device.RawInputStream(callback=self._on_input, **options))
            latency = self._streams[0].latency + self._streams[1].latency
            self._apm.set_stream_delay_ms(min(500, round(latency * 1000)))
            for stream in self._streams:
                stream.start()
        except Exception as error:  # PortAudio's own kind, which exists only once it is imported
            self.close()
            raise Fault(f"the sound devices cannot be opened: {error}") from None

    def close(self) -> None:
        for stream in self._streams:
            stream.close()
        self._streams.clear()

    def play(self, frame: ReplyAudio) -> None:
        with self._lock:
            if frame.generation > self._flushed:
                self._ahead.append((frame.generation, frame.pcm))

    def flush(self, generation: int) -> None:
        with self._lock:
            self._flushed = max(self._flushed, generation)
            self._ahead = deque(item for item in self._ahead if item[0] > generation)
            if self._partial[0] <= generation:
                self._partial = (0, b"")

    async def captured(self) -> bytes:
        """What the microphone heard since the last call, without our own voice: PCM16 at 48 kHz."""
        while True:
            with self._lock:
                blocks = list(self._heard)
                self._heard.clear()
                self._arrived.clear()
            if blocks:
                return b"".join(blocks)
            await self._arrived.wait()

    def _on_output(self, out: Any, frames: int, time: Any, status: Any) -> None:
        wanted = frames * 2
        with self._lock:
            generation, pcm = self._partial
            while len(pcm) < wanted and self._ahead:
                generation, more = self._ahead.popleft()
                pcm += more
            self._partial = (generation, pcm[wanted:])
        block = pcm[:wanted].ljust(wanted, b"\0")
        self._apm.process_reverse_stream(self._as_frame(bytearray(block)))
        out[:] = block

    def _on_input(self, data: Any, frames: int, time: Any, status: Any) -> None:
        frame = self._as_frame(bytearray(data))
        self._apm.process_stream(frame)
        with self._lock:
            self._heard.append(bytes(frame.data))
        self._loop.call_soon_threadsafe(self._arrived.set)

    def _as_frame(self, pcm: bytearray) -> Any:
        return self._frame(pcm, _RATE, 1, len(pcm) // 2)
