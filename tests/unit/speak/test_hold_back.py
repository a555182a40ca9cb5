"""Holding frames back for a moment: nothing is lost, said twice or shifted."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.virtual_time import run_virtual
from tests.unit.speak.test_playout import Listener, audio


def in_order(it: Listener, count: int) -> None:
    assert [f.offset_ms for _, f in it.sent] == [20 * n for n in range(count)]
    assert [f.sequence for _, f in it.sent] == list(range(count))
    assert len({f.generation for _, f in it.sent}) == 1


@pytest.mark.parametrize("begin_s", [0.500, 0.507, 0.513, 0.519])
def test_a_hold_within_the_lead_loses_repeats_and_shifts_nothing(begin_s: float) -> None:
    async def main() -> None:
        it = Listener(60)
        track = it.playout.start()
        await track.write(audio(2000))
        track.finish()
        await asyncio.sleep(begin_s)
        dry_s = it.playout.runs_dry_s
        assert dry_s is not None
        assert 0.040 <= dry_s - it.now() <= 0.081, "the lead, less or more what a tick takes"
        it.playout.hold_back()
        sent = len(it.sent)
        await asyncio.sleep(dry_s - it.now() - 0.001)
        assert len(it.sent) == sent
        heard = it.playout.heard_ms()
        it.playout.let_go()
        assert it.playout.heard_ms() == heard
        assert it.sent[-1][1].offset_ms / 1000 + it.sent[0][0] >= it.now() + 0.040, "the lead is back at once"
        await asyncio.sleep(5)
        in_order(it, 100)
        start = it.sent[0][0]
        assert all(at <= start + n * 0.020 for n, (at, _) in enumerate(it.sent)), "each in time to be played"
        assert it.heard_at is not None
        assert it.heard_at - start == pytest.approx(2.0, abs=0.021)

    run_virtual(main())


def test_a_hold_beyond_the_lead_shifts_what_follows_and_loses_nothing() -> None:
    async def main() -> None:
        it = Listener(60)
        track = it.playout.start()
        await track.write(audio(2000))
        track.finish()
        await asyncio.sleep(0.5)
        sent = len(it.sent)
        it.playout.hold_back()
        await asyncio.sleep(0.3)
        assert it.playout.heard_ms() == sent * 20, "the client has played what it had, and no more"
        it.playout.let_go()
        await asyncio.sleep(5)
        in_order(it, 100)
        assert it.heard_at is not None
        gap_s = 0.3 - (sent * 0.020 - 0.5)
        assert it.heard_at - it.sent[0][0] == pytest.approx(2.0 + gap_s, abs=0.021)

    run_virtual(main())


def test_a_pause_in_a_hold_is_a_pause() -> None:
    async def main() -> None:
        it = Listener(60)
        await it.playout.start().write(audio(2000))
        await asyncio.sleep(0.5)
        it.playout.hold_back()
        sent = len(it.sent)
        it.playout.pause()
        it.playout.let_go()
        await asyncio.sleep(0.5)
        assert len(it.sent) == sent
        it.playout.resume()
        assert len(it.sent) > sent
        assert it.sent[-1][1].generation == it.sent[0][1].generation + 1
        it.playout.drop()

    run_virtual(main())


def test_there_is_nothing_to_hold_before_during_a_pause_or_after_the_last_frame() -> None:
    async def main() -> None:
        it = Listener(60)
        assert it.playout.runs_dry_s is None
        track = it.playout.start()
        assert it.playout.runs_dry_s is None
        await track.write(audio(100))
        assert it.playout.runs_dry_s is not None
        it.playout.pause()
        assert it.playout.runs_dry_s is None
        it.playout.resume()
        track.finish()
        await asyncio.sleep(0.06)
        assert it.playout.runs_dry_s is None
        it.playout.hold_back()
        await asyncio.sleep(1)
        assert it.heard_at is not None, "a hold after the last frame keeps no reply open"

    run_virtual(main())


def test_a_new_reply_knows_nothing_of_the_last_ones_hold() -> None:
    async def main() -> None:
        it = Listener(60)
        await it.playout.start().write(audio(200))
        it.playout.hold_back()
        it.playout.drop()
        it.playout.let_go()
        it.sent.clear()
        await it.playout.start().write(audio(100))
        assert len(it.sent) == 4
        it.playout.drop()

    run_virtual(main())
