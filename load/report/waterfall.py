"""Where the time of a turn goes: each stage's median one after the other, p95 as whiskers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from load.report.data import Floats, Run
from load.report.figures import percentile
from load.report.svg import WIDTH, axis_to, card, escape
from load.report.words import STAGES, milliseconds

_ROW, _TOP, _LEFT, _RIGHT = 36, 4, 4, 4
_COLOURS = ("c1", "c2", "c3", "c4", "c5", "c6")


def stages(run: Run) -> list[tuple[str, str, Floats]]:
    """(stage, whose time it is, ms of each turn that got through all of them)."""
    columns = [
        {key: float(ms) for key, ms in zip(zip(s.caller, s.turn, strict=True), s.ms, strict=True) if math.isfinite(ms)}
        for s in map(
            run.of,
            (
                "speech_end_to_stopped", "speech_end_to_final", "final_to_first_token",
                "first_token_to_first_sentence", "sentence_to_first_chunk", "voice_to_voice",
            ),
        )
    ]  # fmt: skip
    keys = sorted(set.intersection(*(set(column) for column in columns)))
    if not keys:
        return []
    stopped, final, token, sentence, chunk, heard = (
        np.array([column[key] for key in keys]) for column in columns
    )
    parts = (stopped, final - stopped, token, sentence, chunk, heard - final - token - sentence - chunk)
    return [(name, whose, part) for (name, whose), part in zip(STAGES, parts, strict=True)]


def waterfall(run: Run, old: Run | None) -> str:
    found = stages(run)
    if not found:
        return ""
    before = stages(old) if old is not None else []
    rows = [(name, whose, percentile(ms, 0.5), percentile(ms, 0.95)) for name, whose, ms in found]
    whole = run.of("voice_to_voice").ms
    whole = whole[np.isfinite(whole)]
    total, worst = percentile(whole, 0.5), percentile(whole, 0.95)
    reach, at = worst, 0.0
    for _, _, p50, p95 in rows:
        reach = max(reach, at + p95)
        at += max(0.0, p50)
    axis = axis_to((1.45 if before else 1.22) * reach)  # beside the last bar stands its text
    left, width = _LEFT, WIDTH - _LEFT - _RIGHT

    def px(ms: float) -> float:
        return round(left + width * max(0.0, ms) / axis.high, 1)

    marks, y, at = [], _TOP, 0.0
    for k, (name, whose, p50, p95) in enumerate(rows):
        old_p50 = percentile(before[k][2], 0.5) if before else math.nan
        marks.append(_row(name, whose, y, px, at, p50, p95, old_p50, _COLOURS[k]))
        at += max(0.0, p50)
        y += _ROW
    marks.append(
        _row(
            "voice to voice",
            "the whole, as the caller hears it",
            y,
            px,
            0.0,
            total,
            worst,
            _whole(old),
            "ink",
        )
    )
    height = y + _ROW + 22
    for value in axis.ticks():
        marks.insert(0, f'<path class="grid" d="M{px(value)} {_TOP}V{height - 20}"/>')
        if value < axis.high:
            anchor = "start" if value == 0 else "middle"
            marks.append(
                f'<text class="tick" x="{px(value)}" y="{height - 5}" text-anchor="{anchor}">{axis.text(value)}</text>'
            )
    marks.append(f'<text class="unit" x="{WIDTH - _RIGHT}" y="{height - 5}" text-anchor="end">ms</text>')
    about = f"Medians of {len(found[0][2])} turns, one after the other; whiskers reach the 95th percentile"
    body = (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(about)}">{"".join(marks)}</svg>'
    )
    return card("Where the time of a turn goes", about, body)


def _whole(run: Run | None) -> float:
    if run is None:
        return math.nan
    values = run.of("voice_to_voice").ms
    return percentile(values[np.isfinite(values)], 0.5)


def _row(
    name: str,
    whose: str,
    y: int,
    px: Callable[[float], float],
    at: float,
    p50: float,
    p95: float,
    old: float,
    kind: str,
) -> str:
    begin, end, far = px(at), px(at + max(0.0, p50)), px(at + p95)
    middle = y + 24
    change = "" if math.isnan(old) else f" (was {milliseconds(old)})"
    whisker = (
        f'<path class="whisker" d="M{end} {middle}H{far}M{far} {middle - 4}v8"/>' if far > end + 1 else ""
    )
    return (
        f"<g><title>{escape(f'{name}, {whose}: p50 {milliseconds(p50)}, p95 {milliseconds(p95)}{change}')}</title>"
        f'<text class="label" x="{_LEFT}" y="{y + 12}">{escape(name)}<tspan class="soft" dx="8">{escape(whose)}</tspan></text>'
        f'<rect class="bar {kind}" x="{begin}" y="{middle - 6}" width="{max(1.5, end - begin):.1f}" height="12" rx="2"/>{whisker}'
        f'<text class="value" x="{max(far, end) + 7}" y="{middle + 4}">{escape(milliseconds(p50) + change)}</text></g>'
    )
