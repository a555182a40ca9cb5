"""An utterance outlives its recogniser: replay, budget, and words of audio that is no longer kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest

from gateway.listen.asr import AsrError, HeardWord, Hypothesis
from gateway.listen.utterance import Utterance
from gateway.settings import AsrSettings
from tests.support.virtual_time import run_virtual

Try = Callable[[AsyncIterator[bytes]], AsyncIterator[Hypothesis]]


class Scripted:
    """Each try is an async generator of the test's own."""

    def __init__(self, *tries: Try) -> None:
        self.tries = list(tries)

    def recognize(
        self, audio: AsyncIterator[bytes], *, language: str, hints: Sequence[str] = ()
    ) -> AsyncIterator[Hypothesis]:
        return self.tries.pop(0)(audio)

    async def check(self) -> None: ...

    async def close(self) -> None: ...


def block(ms: int = 100) -> bytes:
    return bytes(32 * ms)


async def _fails_after_6_s(audio: AsyncIterator[bytes]) -> AsyncIterator[Hypothesis]:
    heard = 0
    async for pcm in audio:
        heard += len(pcm) // 32
        if heard == 5000:
            words = tuple(
                HeardWord(w, n * 1000, n * 1000 + 900) for n, w in enumerate(["a", "b", "c", "d", "e"])
            )
            yield Hypothesis("a b c d e", final=False, words=words)
        if heard >= 6000:
            raise AsrError("the service went away")


async def _recognises_the_rest(audio: AsyncIterator[bytes]) -> AsyncIterator[Hypothesis]:
    heard = 0
    async for pcm in audio:
        heard += len(pcm) // 32
    yield Hypothesis(f"rest of {heard} ms", final=True, stable=4, words=(HeardWord("rest", 100, 200),))


def test_words_of_audio_no_longer_kept_are_put_before_what_the_replay_says() -> None:
    async def main() -> None:
        retries: list[str] = []
        it = Utterance(
            Scripted(_fails_after_6_s, _recognises_the_rest),
            AsrSettings(replay_s=4.0),
            language="en-US",
            on_partial=lambda h: None,
            on_retry=retries.append,
        )
        run = asyncio.create_task(it.run())
        for _ in range(70):
            it.feed(block())
            await asyncio.sleep(0.1)
        it.end()
        final = await it.final()
        await run
        assert retries == ["the service went away"]
        assert final.text == "a b rest of 5000 ms"
        assert final.words[0].start_ms == pytest.approx(2000 + 100, abs=150)

    run_virtual(main())


def test_a_refusal_is_not_tried_again() -> None:
    async def main() -> None:
        async def refuses(audio: AsyncIterator[bytes]) -> AsyncIterator[Hypothesis]:
            raise AsrError("no such language", retryable=False)
            yield

        it = Utterance(
            Scripted(refuses), AsrSettings(), language="xx", on_partial=lambda h: None, on_retry=print
        )
        await it.run()
        with pytest.raises(AsrError, match="no such language"):
            await it.final()

    run_virtual(main())


def test_cancelling_leaves_no_waiter_hanging() -> None:
    async def main() -> None:
        async def deaf(audio: AsyncIterator[bytes]) -> AsyncIterator[Hypothesis]:
            await asyncio.Event().wait()
            yield Hypothesis("", final=True)

        it = Utterance(
            Scripted(deaf), AsrSettings(), language="en", on_partial=lambda h: None, on_retry=print
        )
        run = asyncio.create_task(it.run())
        await asyncio.sleep(0.1)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await it.final()
        await asyncio.gather(run, return_exceptions=True)

    run_virtual(main())


def test_a_stream_that_ends_without_a_final_is_a_failure() -> None:
    async def main() -> None:
        async def ends(audio: AsyncIterator[bytes]) -> AsyncIterator[Hypothesis]:
            async for _ in audio:
                pass
            return
            yield

        async def answers(audio: AsyncIterator[bytes]) -> AsyncIterator[Hypothesis]:
            async for _ in audio:
                pass
            yield Hypothesis("here", final=True)

        why: list[str] = []
        it = Utterance(
            Scripted(ends, answers),
            AsrSettings(),
            language="en",
            on_partial=lambda h: None,
            on_retry=why.append,
        )
        it.feed(block())
        it.end()
        await it.run()
        assert (await it.final()).text == "here"
        assert why == ["the recogniser ended the stream without a final transcript"]

    run_virtual(main())


def test_audio_goes_out_in_messages_of_chunk_ms_and_the_end_waits_for_none() -> None:
    class Listens:
        def __init__(self) -> None:
            self.messages: list[tuple[float, int]] = []

        async def recognize(
            self, audio: AsyncIterator[bytes], *, language: str, hints: Sequence[str] = ()
        ) -> AsyncIterator[Hypothesis]:
            loop = asyncio.get_running_loop()
            began = loop.time()
            async for pcm in audio:
                self.messages.append((round((loop.time() - began) * 1000), len(pcm) // 32))
            yield Hypothesis("done", final=True)

        async def check(self) -> None: ...

        async def close(self) -> None: ...

    async def speak() -> list[tuple[float, int]]:
        recognizer = Listens()
        utterance = Utterance(
            recognizer, AsrSettings(chunk_ms=96), language="", on_partial=lambda h: None,
            on_retry=lambda why: None,
        )  # fmt: skip
        running = asyncio.create_task(utterance.run())
        utterance.feed(bytes(320 * 32))  # the pre-roll
        for _ in range(7):
            await asyncio.sleep(0.032)
            utterance.feed(bytes(32 * 32))
        utterance.end()
        await running
        return recognizer.messages

    messages = run_virtual(speak())
    assert [ms for _, ms in messages] == [320, 96, 96, 32]
    assert [at for at, _ in messages] == [0, 96, 192, 224]
