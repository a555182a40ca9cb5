"""The workers as the model sees them: a few kept ready, more while needed, dead ones replaced."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

from worker import ANSWER, REQUEST

from gateway.triton.models.asr.engine import EngineError
from gateway.triton.models.recognition import RESTART

SCRIPT = Path(__file__).with_name("worker.py")
LOAD_S = 30.0
BORN_S = 10.0


class Worker:
    """One process with one decoder: one utterance at a time."""

    def __init__(self, pid: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.pid = pid
        self._reader = reader
        self._writer = writer

    async def ask(self, flags: int, audio: bytes, deadline_s: float) -> dict[str, Any]:
        """One chunk (float32 at 16 kHz). Raises: EngineError, after which the worker must be discarded."""
        try:
            async with asyncio.timeout(deadline_s):
                self._writer.write(REQUEST.pack(flags, len(audio)) + audio)
                await self._writer.drain()
                reply = await read_answer(self._reader)
        except TimeoutError:
            os.kill(self.pid, signal.SIGKILL)
            raise EngineError(f"the recogniser gave no answer within {deadline_s:.0f} s; {RESTART}") from None
        except (OSError, EOFError):
            raise EngineError(f"the recogniser's worker process ended; {RESTART}") from None
        if "error" in reply:
            raise EngineError(str(reply["error"]))
        return reply

    @property
    def alive(self) -> bool:
        return not self._reader.at_eof() and not self._writer.is_closing()

    def close(self) -> None:
        """The worker ends when it notices; what it was doing is dropped."""
        self._writer.close()


class Pool:
    """At most `limit` workers; up to `ready` of them, and at least one, wait for the next utterances.

    As many work at a time as there are CPUs; a chunk cannot be interrupted, and the last one of a long
    utterance takes half a second, so live audio may share the CPUs with audio that is early.
    """

    places = spare = len(os.sched_getaffinity(0))

    def __init__(self, ready: int, limit: int) -> None:
        self._ready = min(ready, limit)
        self._limit = limit
        self._used = 0
        self._idle: list[Worker] = []
        self._control: socket.socket | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._starting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Loads the engine and the ready workers. Raises: EngineError with the engine's reason."""
        await self._start_parent()
        self._idle = list(await asyncio.gather(*(self._fork() for _ in range(self._ready))))

    async def acquire(self, language: str) -> Worker:
        """A worker of one's own, to be given to `release` or `discard`. Raises: EngineError."""
        if self._used >= self._limit:
            raise EngineError(
                f"too many concurrent utterances: {self._limit} are being recognised; "
                "try again when one has ended, or raise max_streams in the model's config.pbtxt"
            )
        self._used += 1
        try:
            while self._idle:
                worker = self._idle.pop()
                if worker.alive:
                    return worker
                worker.close()
            return await self._fork()
        except BaseException:
            self._used -= 1
            raise
        finally:
            self._refill()

    def release(self, worker: Worker) -> None:
        """After an utterance that ended well."""
        self._used -= 1
        if worker.alive and len(self._idle) < self._ready:
            self._idle.append(worker)
        else:
            worker.close()
        self._refill()

    def discard(self, worker: Worker) -> None:
        """After an utterance that was left open or failed: the decoder's state is not known."""
        self._used -= 1
        worker.close()
        self._refill()

    async def close(self) -> None:
        """Ends every worker."""
        for task in list(self._tasks):
            task.cancel()
        for worker in self._idle:
            worker.close()
        self._idle.clear()
        if self._control is not None:
            self._control.close()
        if self._process is not None:
            await self._process.wait()

    def _refill(self) -> None:
        """The last one left is never taken without another being started: no utterance waits for a fork."""
        room = self._limit - self._used - len(self._idle)
        if not self._idle and not self._tasks and room > 0:
            task = asyncio.get_running_loop().create_task(self._add_idle())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _add_idle(self) -> None:
        try:
            worker = await self._fork()
        except EngineError as error:
            print(f"asr_pocketsphinx: {error}", file=sys.stderr, flush=True)
        else:
            self._idle.append(worker)

    async def _fork(self) -> Worker:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                await self._ask_parent(theirs)
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except BaseException:
            ours.close()
            raise
        try:
            async with asyncio.timeout(BORN_S):
                hello = await read_answer(reader)
        except (TimeoutError, OSError, EOFError):
            writer.close()
            raise EngineError("the recogniser could not start a worker process; try again") from None
        return Worker(int(hello["pid"]), reader, writer)

    async def _ask_parent(self, theirs: socket.socket) -> None:
        for last_try in (False, True):
            control = self._control
            try:
                if control is not None:
                    socket.send_fds(control, [b"f"], [theirs.fileno()])
                    return
            except OSError:
                pass
            if last_try:
                raise EngineError("the recogniser's parent process does not answer; try again")
            async with self._starting:
                if self._control is control:
                    await self._start_parent()

    async def _start_parent(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, str(SCRIPT), str(theirs.fileno()),
                pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL, env=environment,
            )  # fmt: skip
        ours.setblocking(False)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(LOAD_S):
                head = await _receive(loop, ours, ANSWER.size)
                said = json.loads(await _receive(loop, ours, ANSWER.unpack(head)[0]))
        except (TimeoutError, OSError, EOFError):
            ours.close()
            raise EngineError(f"the recogniser's process did not start ({sys.executable})") from None
        if "error" in said:
            ours.close()
            raise EngineError(str(said["error"]))
        if self._control is not None:
            self._control.close()
        self._control = ours


async def read_answer(reader: asyncio.StreamReader) -> dict[str, Any]:
    head = await reader.readexactly(ANSWER.size)
    body: dict[str, Any] = json.loads(await reader.readexactly(ANSWER.unpack(head)[0]))
    return body


async def _receive(loop: asyncio.AbstractEventLoop, source: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = await loop.sock_recv(source, size - len(data))
        if not part:
            raise EOFError
        data += part
    return data
