"""A chat model that says how many questions it has been told of: a caller's history, seen from outside."""

from __future__ import annotations

import json
import re

from aiohttp import web

ASKED = "question"
"""Each of a caller's texts holds this word once, and nothing else does."""
HEARD = "one"
"""What asr_light hears as the first word of whatever is said, and as every tenth after it."""
_SOUND = "Tone 440 for 1500:"
"""What the light voice makes 1.5 s of sound of."""


async def serve_counting() -> tuple[web.AppRunner, str]:
    """The running server, to be cleaned up, and its base URL."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", _complete)
    app.router.add_get("/v1/models", _models)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"


def questions(words: str) -> int:
    """How many of a caller's questions these words are, typed or heard."""
    return len(re.findall(rf"\b({ASKED}|{HEARD})\b", words.lower()))


def counted(reply: str) -> int:
    """The number that a reply says; -1 for none."""
    found = re.findall(r"\d+", reply)
    return int(found[-1]) if found else -1


async def _models(_: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": "counting", "object": "model"}]})


async def _complete(request: web.Request) -> web.StreamResponse:
    asked = await request.json()
    said = sum(questions(m["content"]) for m in asked["messages"] if m["role"] == "user")
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    head = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "counting"}
    for delta, finish in (({"content": f"{_SOUND} {said} heard."}, None), ({}, "stop")):
        chunk = head | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
        await response.write(f"data: {json.dumps(chunk)}\n\n".encode())
    await response.write(b"data: [DONE]\n\n")
    return response
