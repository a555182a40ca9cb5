"""What a streamed token costs in each client that could read it: `python -m bench.llm_client`.

A server process of its own writes every token alone; CPU seconds are this process's, over all tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Protocol

import aiohttp
import openai
from openai import AsyncOpenAI

from gateway.app import run_loop
from gateway.settings import LlmSettings
from gateway.think.llm import Message
from gateway.think.openai_llm import OpenAiLlm

_REQUEST = {"model": "m", "messages": [{"role": "user", "content": "Count."}], "stream": True}
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


class Client(Protocol):
    def __call__(self) -> AsyncGenerator[str, None]: ...


# ---- the server ------------------------------------------------------------------------------------


async def serve(tokens: int, rate: float) -> None:
    """Prints its port and serves until its parent goes. rate: tokens/s of a stream; 0: as fast as it can."""
    server = await asyncio.start_server(lambda r, w: _answer_all(r, w, tokens, rate), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


async def _answer_all(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, tokens: int, rate: float
) -> None:
    try:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode().lower():
            length = head.partition("content-length:")[2].partition("\r\n")[0]
            await reader.readexactly(int(length or 0))
            await _answer(writer, tokens, rate)
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def _answer(writer: asyncio.StreamWriter, tokens: int, rate: float) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(tokens):
        if rate:
            await asyncio.sleep(max(0.0, began + number / rate - loop.time()))
        else:
            await asyncio.sleep(0)
        writer.write((_HEAD if number == 0 else b"") + _chunk({"content": f" word{number}"}))
    writer.write(_chunk({}, "stop") + _framed(b"data: [DONE]\n\n") + b"0\r\n\r\n")
    await writer.drain()


def _chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    chunk = {
        "id": "chatcmpl-0123456789abcdef01234567",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": "meta/llama-3.1-8b-instruct",
        "choices": [choice],
    }
    return _framed(f"data: {json.dumps(chunk)}\n\n".encode())


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


# ---- the clients -----------------------------------------------------------------------------------


@asynccontextmanager
async def _parley(url: str) -> AsyncIterator[Client]:
    llm = OpenAiLlm(LlmSettings(base_url=url))

    async def stream() -> AsyncGenerator[str, None]:
        async with aclosing(llm.stream([Message("user", "Count.")])) as parts:
            async for part in parts:
                assert isinstance(part, str)
                yield part

    yield stream
    await llm.close()


def _sdk(http: Callable[[], Any]) -> Callable[[str], Any]:
    @asynccontextmanager
    async def make(url: str) -> AsyncIterator[Client]:
        client = AsyncOpenAI(base_url=url, api_key="none", http_client=http())

        async def stream() -> AsyncGenerator[str, None]:
            response = await client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "Count."}], stream=True
            )
            async for chunk in response:
                if text := chunk.choices[0].delta.content:
                    yield text

        yield stream
        await client.close()

    return make


@asynccontextmanager
async def _sdk_raw(url: str) -> AsyncIterator[Client]:
    client = AsyncOpenAI(base_url=url, api_key="none")

    async def stream() -> AsyncGenerator[str, None]:
        async with client.chat.completions.with_streaming_response.create(
            model="m", messages=[{"role": "user", "content": "Count."}], stream=True
        ) as response:
            async for text in _texts(response.iter_bytes()):
                yield text

    yield stream
    await client.close()


@asynccontextmanager
async def _httpx(url: str) -> AsyncIterator[Client]:
    async with openai.DefaultAsyncHttpxClient(trust_env=False) as client:

        async def stream() -> AsyncGenerator[str, None]:
            async with client.stream("POST", f"{url}/chat/completions", json=_REQUEST) as response:
                async for text in _texts(response.aiter_raw()):
                    yield text

        yield stream


@asynccontextmanager
async def _aiohttp(url: str) -> AsyncIterator[Client]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:

        async def stream() -> AsyncGenerator[str, None]:
            async with client.post(f"{url}/chat/completions", json=_REQUEST) as response:
                async for text in _texts(response.content.iter_any()):
                    yield text

        yield stream


async def _texts(blocks: AsyncIterator[bytes]) -> AsyncGenerator[str, None]:
    rest = b""
    async for block in blocks:
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            is_chunk = line.startswith(b"data:") and not line.endswith(b"[DONE]")
            if is_chunk and (text := json.loads(line[5:])["choices"][0]["delta"].get("content")):
                yield text


CLIENTS: dict[str, Callable[[str], Any]] = {
    "SDK": _sdk(openai.DefaultAsyncHttpxClient),
    "SDK over aiohttp": _sdk(openai.DefaultAioHttpClient),
    "SDK, raw response": _sdk_raw,
    "httpx": _httpx,
    "aiohttp": _aiohttp,
    "Parley": _parley,
}


# ---- measuring -------------------------------------------------------------------------------------


async def measure(name: str, streams: int, tokens: int, rate: float) -> float:
    """CPU microseconds of a token, client side."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.llm_client", "--serve", str(tokens), str(rate),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        url = f"http://127.0.0.1:{int(await server.stdout.readline())}/v1"
        async with CLIENTS[name](url) as stream:
            await asyncio.gather(*(_read(stream()) for _ in range(streams)))  # connections, code paths
            began = time.process_time()
            counts = await asyncio.gather(*(_read(stream()) for _ in range(streams)))
            spent = time.process_time() - began
        assert counts == [tokens] * streams
        return spent / (streams * tokens) * 1e6
    finally:
        server.terminate()
        await server.wait()


async def _read(stream: AsyncGenerator[str, None]) -> int:
    count = 0
    async with aclosing(stream):
        async for _ in stream:
            count += 1
    return count


async def _measure_all(names: list[str], streams: int, tokens: int, rate: float) -> None:
    print("| client | µs of CPU per token, paced | in a burst |\n|---|---|---|")
    for name in names:
        paced, burst = [await measure(name, streams, tokens, r) for r in (rate, 0.0)]
        print(f"| {name} | {paced:.0f} | {burst:.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clients", nargs="*", help=f"default: {', '.join(CLIENTS)}")
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=200)
    parser.add_argument("--rate", type=float, default=60.0, help="tokens/s of a stream")
    parser.add_argument("--serve", nargs=2, metavar=("TOKENS", "RATE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(int(options.serve[0]), float(options.serve[1])))
    else:
        names = options.clients or list(CLIENTS)
        run_loop(_measure_all(names, options.streams, options.tokens, options.rate))


if __name__ == "__main__":
    main()
