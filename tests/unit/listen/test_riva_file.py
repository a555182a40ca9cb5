"""Whole recordings through our own Riva front over a scripted Triton, and through services that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import numpy as np
import pytest
from pydantic import SecretStr
from riva.client.proto import riva_asr_pb2 as pb
from riva.client.proto import riva_asr_pb2_grpc

from gateway.listen.asr import AsrError
from gateway.listen.riva_file import RivaTranscriber
from gateway.listen.transcriber import AsrModel, Passage, Wanted
from gateway.settings import AsrSettings
from tests.unit.listen.test_riva_asr import Script, Service, said
from tests.unit.riva.parts import Rig, loud, model

Read = AsyncIterator[pb.StreamingRecognizeRequest]


async def pieces(*parts: Any) -> AsyncIterator[bytes]:
    for part in parts:
        for at in range(0, part.size, 4_000):
            yield part[at : at + 4_000].tobytes()


def silence(ms: int) -> Any:
    return np.zeros(16 * ms, np.int16)


@contextlib.asynccontextmanager
async def transcriber(
    address: str, *, stall_s: float = 5.0, **options: Any
) -> AsyncIterator[RivaTranscriber]:
    made = RivaTranscriber(AsrSettings(uri=address, **options), stall_s=stall_s)
    try:
        yield made
    finally:
        await made.close()


@contextlib.asynccontextmanager
async def served(script: Script, **options: Any) -> AsyncIterator[tuple[Service, RivaTranscriber]]:
    server = grpc.aio.server()
    service = Service(script)
    riva_asr_pb2_grpc.add_RivaSpeechRecognitionServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with transcriber(f"127.0.0.1:{port}", **options) as made:
            yield service, made
    finally:
        await server.stop(None)


async def heard(made: RivaTranscriber, audio: AsyncIterator[bytes], **wanted: Any) -> list[Passage]:
    return [passage async for passage in made.transcribe(audio, Wanted(**wanted))]


async def test_passages_end_at_pauses_and_times_count_from_the_beginning() -> None:
    async with Rig().serve() as rig, transcriber(rig.address) as made:
        found = await heard(
            made,
            pieces(silence(500), loud(1_600), silence(2_000), loud(960), silence(500)),
            hints=("Parley",),
        )
    assert all(passage.final for passage in found)
    assert len(found) == 2, found
    assert found[0].text == "one two three four five"
    assert found[1].text.startswith("one two")
    assert [word.text for word in found[0].words] == found[0].text.split()
    assert 480 <= found[0].words[0].start_ms <= 520
    assert 4_000 <= found[1].words[0].start_ms <= 4_500
    assert found[1].processed_s == pytest.approx(5.56, abs=0.2)
    assert rig.asr.calls[0].hints == ("Parley",)
    assert rig.asr.left_open == 0


async def test_partials_and_a_shorter_pause_where_they_are_wanted() -> None:
    async with Rig().serve() as rig, transcriber(rig.address) as made:
        audio = [loud(960), silence(400), loud(960), silence(400)]
        found = await heard(made, pieces(*audio), partials=True, pause_ms=200)
        usual = await heard(made, pieces(*audio))
    assert len([passage for passage in found if passage.final]) == 2
    assert len(usual) == 1
    partials = [passage for passage in found if not passage.final]
    assert partials[1].text.startswith("one")
    assert all(passage.text[: passage.stable] in passage.text for passage in partials)
    assert max(passage.stable for passage in partials) > 0


async def test_models_and_languages() -> None:
    models = [model("asr_a"), model("asr_de", languages=("de-DE",)), model("tts_a")]
    async with Rig(*models).serve() as rig, transcriber(rig.address) as made:
        assert await made.models() == [AsrModel("asr_a", ("en-US",)), AsrModel("asr_de", ("de-DE",))]
        for language in ("", "en", "en-US", "de"):
            assert await heard(made, pieces(loud(640)), language=language)
        for wrong in ({"language": "xx"}, {"model": "asr_none"}):
            with pytest.raises(AsrError, match="Unavailable model") as caught:
                await heard(made, pieces(loud(640)), **wrong)
            assert not caught.value.unwell
    assert [call.language for call in rig.asr.calls] == ["en-US", "en-US", "en-US", "de"]


async def test_leaving_early_frees_the_recogniser() -> None:
    async with Rig().serve() as rig, transcriber(rig.address) as made:
        rig.asr.gate = asyncio.Event()
        waiting = asyncio.create_task(heard(made, pieces(loud(60_000))))
        await rig.notice.until(lambda: bool(rig.asr.calls))
        waiting.cancel()
        rig.asr.gate.set()
        await rig.notice.until(lambda: rig.asr.left_open == 0)


async def test_what_the_recording_raises_ends_the_call() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield loud(640).tobytes()
        raise ValueError("too long")

    async with Rig().serve() as rig, transcriber(rig.address) as made:
        with pytest.raises(ValueError, match="too long"):
            await heard(made, broken())
        await rig.notice.until(lambda: rig.asr.left_open == 0)


async def test_a_service_that_reads_and_says_nothing_is_given_up_but_not_while_it_reads() -> None:
    async def deaf(_: Service, requests: Read, __: Any) -> None:
        async for _request in requests:
            pass
        await asyncio.Event().wait()

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(6):
            await asyncio.sleep(0.1)
            yield bytes(3_200)

    async with served(deaf, stall_s=0.3) as (service, made):
        began = asyncio.get_running_loop().time()
        with pytest.raises(AsrError, match=r"nothing moved for 0\.3 s") as caught:
            await heard(made, slow())
        assert asyncio.get_running_loop().time() - began > 0.85
        assert caught.value.unwell
        await service.cancelled.wait()


async def endless() -> AsyncIterator[bytes]:
    yield loud(640).tobytes()
    await asyncio.Event().wait()


async def test_a_service_that_ends_early_refuses_or_is_not_there() -> None:
    async def early(_: Service, requests: Read, context: Any) -> None:
        await context.write(said(("hello", True, 1.0)))

    async def refuses(_: Service, requests: Read, context: Any) -> None:
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no")

    async with served(early) as (_, made):
        with pytest.raises(AsrError, match="ended the stream before"):
            await heard(made, endless())
    async with served(refuses, api_key=SecretStr("hush")) as (service, made):
        with pytest.raises(AsrError, match="PARLEY_ASR__API_KEY") as caught:
            await heard(made, pieces(loud(640)))
        assert caught.value.unwell
        assert service.metadata["authorization"] == "Bearer hush"
    async with transcriber("127.0.0.1:1") as made:
        with pytest.raises(AsrError, match="start it"):
            await heard(made, pieces(loud(640)))
        with pytest.raises(AsrError, match="start it"):
            await made.models()


async def test_a_recording_without_pauses_is_cut_at_quiet_moments() -> None:
    """Loud for 70 s, but for 100 ms at 24.3 s: cut there, then after 30 s wherever."""
    audio = loud(70_000)
    audio[24_300 * 16 : 24_400 * 16] = 0
    async with Rig().serve() as rig, transcriber(rig.address) as made:
        found = await heard(made, pieces(audio))
    ends = [passage.processed_s for passage in found]
    assert len(found) == 3, ends
    assert ends[0] == pytest.approx(24.35, abs=0.05)
    assert 53 < ends[1] < 55
    assert ends[2] == pytest.approx(70, abs=0.2)
    assert sum(len(passage.words) for passage in found) == pytest.approx(70 / 0.32, abs=4), "words were lost"
