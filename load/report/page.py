"""report.html: one file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from load.report import charts, compare
from load.report.data import Run
from load.report.svg import escape
from load.report.tiles import held_level, people, tiles
from load.report.waterfall import waterfall
from load.report.words import milliseconds, number, percent

_HERE = Path(__file__).parent
_SENTENCES = {
    "VOID": "These figures do not speak of the gateway.",
    "Held": "Every check of the run is fine.",
    "Did not hold": "At least one check of the run failed.",
}


def page(
    run: Run, summary: dict[str, Any], old: Run | None = None, old_summary: dict[str, Any] | None = None
) -> str:
    """The whole document. With `old`, both runs in every picture, and a table of ratios."""
    steady = held_level(summary) if summary["limit"] and summary["levels"] else summary["steady"]
    band = (steady["from_s"], steady["to_s"]) if steady else None
    parts = [
        _header(summary),
        tiles(summary, old_summary),
        _section(f"Against {_told(old_summary)}", compare.tables(summary, old_summary))
        if old_summary
        else "",
        _grid(
            "How it felt",
            [charts.turns_over_time(run, band), waterfall(run, old)],
        ),
        _grid(
            "With more sessions",
            charts.against_sessions(summary["levels"], (old_summary or {}).get("levels")),
        ),
        _grid("Latencies, all samples", charts.cdfs(run, old), "small"),
        _grid("Reply frames at the caller", [charts.lateness(run, old), charts.jitter_over_time(run, band)]),
        _grid("What it cost", _levels(run, old, band)),
        _checks(summary),
        _levels_table(summary["levels"]),
        _failures(summary),
        _samples(summary),
        _setup(summary),
    ]
    title = f"Parley load test: {summary['scenario']['name']}, {people(summary['sessions'])}"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{(_HERE / 'page.css').read_text()}</style></head>"
        f"<body><main>{''.join(parts)}<footer>Percentiles are samples that were measured; what failed counts as "
        "infinitely late. Raw samples lie beside this page as CSV, the figures as summary.json.</footer></main>"
        f'<div id="tip"></div><script>{(_HERE / "page.js").read_text()}</script></body></html>\n'
    )


def verdict(summary: dict[str, Any]) -> tuple[str, str, str]:
    """(class, word, sentence)."""
    if summary["void"]:
        return "bad", "VOID", " ".join([_SENTENCES["VOID"], *summary["void"]])
    limit = summary["limit"]
    if limit:
        if limit["broke_at"] is None:
            return (
                "good",
                f"Held up to {limit['held']} sessions",
                "The objective held at every level that was tried.",
            )
        return (
            "warn",
            f"Held up to {limit['held']} sessions",
            f"At {limit['broke_at']} the objective broke: {limit['why']}.",
        )
    wrong = [check for check in summary["checks"] if not check["ok"]]
    if wrong:
        said = "; ".join(f"{check['name']}: {check['value']}, may be {check['may_be']}" for check in wrong)
        return "warn", "Did not hold", f"{said}."
    return "good", "Held", " · ".join(f"{check['name']} {check['value']}" for check in summary["checks"])


def _header(summary: dict[str, Any]) -> str:
    kind, word, sentence = verdict(summary)
    scenario, machine = summary["scenario"], summary["machine"] or {}
    where = (
        f"against {escape(scenario['host'])}" if scenario.get("host") else _cores(summary.get("cores") or {})
    )
    facts = [
        people(summary["sessions"]),
        _duration(summary["seconds"]),
        f"{summary['turns']['n']:,} turns".replace(",", " "),
        where,
        escape(machine.get("date", "")),
    ]
    return (
        f"<header><h1>{escape(str(scenario['name']).replace('_', ' ').capitalize())}"
        f'<span class="soft"> · Parley load test</span></h1>'
        f'<p class="about">{escape(scenario.get("about") or "")}</p>'
        f'<p class="about">{" · ".join(fact for fact in facts if fact)}</p>'
        f'<div class="verdict {kind}"><b>{escape(word)}</b><span>{escape(sentence)}</span></div>'
        + (f'<p class="hint">{escape(summary["disturbed"])}</p>' if summary["disturbed"] else "")
        + "</header>"
    )


def _cores(cores: dict[str, Any]) -> str:
    if not cores.get("pinned"):
        return "nothing pinned"
    return f"gateway on core {escape(cores['gateway'])}, callers and parts on core {escape(cores['callers'])}"


def _told(summary: dict[str, Any]) -> str:
    """A run in few words."""
    date = (summary["machine"] or {}).get("date", "")
    return f"the run before: {summary['scenario']['name']}, {people(summary['sessions'])}, {date}"


def _duration(seconds: float) -> str:
    if math.isnan(seconds):
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 2 * 3600 else f"{seconds / 3600:.1f} h"


def _levels(run: Run, old: Run | None, band: tuple[float, float] | None) -> list[str]:
    return [
        charts.over_time(
            run, None, "CPU over time", "Cores used by each program, all its threads",
            (("gateway_cpu", "c1", "gateway"), ("callers_cpu", "c2", "callers"),
             ("emulators_cpu", "c3", "emulated parts"), ("locust_cpu", "c5", "locust")),
            "cores", band=band,
        ),
        charts.over_time(
            run, old, "Memory over time", "Resident memory of the gateway",
            (("gateway_rss_mb", "c1", "gateway"),), "MB", band=band, from_zero=False,
        ),
        charts.over_time(
            run, None, "Sessions over time", "Open at the gateway", (("sessions", "c1", "sessions"),), "", band=band,
        ),
        charts.over_time(
            run, old, "Detector's backlog", "Age of the oldest audio it has not answered: the first sign of overload",
            (("vad_backlog_ms", "c1", "backlog"),), "ms", band=band, at_least=100.0,
        ),
        charts.over_time(
            run, None, "Tasks over time", "asyncio tasks in the gateway", (("tasks", "c1", "tasks"),), "", band=band,
        ),
        charts.over_time(
            run, None, "Callers' own lateness", "How late the callers sent, p99 of each second; over 5 ms a run is void",
            (("send_late_p99_ms", "c2", "callers"),), "ms", band=band, at_least=5.0,
        ),
    ]  # fmt: skip


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{body}</section>" if body else ""


def _grid(title: str, figures: Iterable[str], kind: str = "") -> str:
    shown = [figure for figure in figures if figure]
    return _section(title, f'<div class="grid {kind}">{"".join(shown)}</div>') if shown else ""


def _table(head: Iterable[str], rows: Iterable[Iterable[str]], text: frozenset[int] = frozenset()) -> str:
    def cells(tag: str, row: Iterable[str]) -> str:
        return "".join(
            f"<{tag}{' class=text' if k in text else ''}>{cell}</{tag}>" for k, cell in enumerate(row)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells("th", head)}</tr></thead><tbody>{body}</tbody></table></div>'


def _checks(summary: dict[str, Any]) -> str:
    rows = [
        (
            escape(check["name"]), escape(check["value"]), escape(check["may_be"]),
            '<span class="better">fine</span>' if check["ok"] else '<span class="worse">not</span>',
        )
        for check in summary["checks"]
    ]  # fmt: skip
    return _section("Checks", _table(("check", "found", "may be", ""), rows)) if rows else ""


def _levels_table(levels: list[dict[str, Any]]) -> str:
    if len({level["sessions"] for level in levels}) < 2:
        return ""
    rows = [
        (
            str(level["sessions"]), f"{level['to_s'] - level['from_s']:.0f} s", str(level["turns"]),
            percent(level["failed_share"]), milliseconds(level["voice_to_voice_p50"]),
            milliseconds(level["voice_to_voice_p95"]), number(level["cpu_cores"]),
            number(level["cpu_s_per_session_minute"], 3), percent(level["frames_late_share"]),
            milliseconds(level["vad_backlog_ms_p95"]), milliseconds(level["send_late_p99_ms"]),
        )
        for level in levels
    ]  # fmt: skip
    head = (
        "sessions", "for", "turns", "failed", "v2v p50", "v2v p95", "cores", "CPU s / session-min", "frames late",
        "backlog p95", "callers late",
    )  # fmt: skip
    return _section("Levels", _table(head, rows))


def _failures(summary: dict[str, Any]) -> str:
    if not summary["failures"]:
        return _section("Failures", '<p class="soft">None.</p>')
    rows = [
        (escape(f["sample"]), escape(f["why"]), f"{f['count']:,}".replace(",", " "))
        for f in summary["failures"]
    ]
    return _section("Failures by reason", _table(("sample", "reason", "how often"), rows, frozenset({1})))


def _samples(summary: dict[str, Any]) -> str:
    rows = [
        (
            f"<code>{escape(name)}</code>", f"{s['n']:,}".replace(",", " "), str(s["failures"]),
            *(number(s[key], 1) for key in ("p50", "p95", "p99", "max")),
        )
        for name, s in summary["samples"].items()
    ]  # fmt: skip
    return _section("All samples", _table(("sample", "n", "failed", "p50", "p95", "p99", "max"), rows))


def _setup(summary: dict[str, Any]) -> str:
    machine = summary["machine"] or {}
    versions = ", ".join(f"{name} {version}" for name, version in (machine.get("versions") or {}).items())
    shown = {
        "command": machine.get("command"),
        "processor": machine.get("cpu"),
        "cores": machine.get("cores"),
        "memory": f"{machine['memory_gib']} GiB" if "memory_gib" in machine else None,
        "system": machine.get("system"),
        "load before": machine.get("load_before"),
        "versions": versions,
    }
    settings = dict(_flat(summary.get("settings") or {}))
    profile = dict(_flat(summary.get("profile") or {}))
    generator = {key: number(value, 3) for key, value in (summary["generator"] or {}).items()}
    parts = dict(_flat(summary.get("parts") or {}))
    blocks = [
        _pairs("Machine", shown),
        _pairs("Gateway settings that were set", settings or {"": "the defaults"}),
        _pairs("Emulated parts", profile),
        _pairs("Load generator (cores, ms)", generator),
        _pairs("Counted by the emulated parts", parts),
    ]
    return _section("How it was run", f'<div class="two">{"".join(blocks)}</div>')


def _pairs(title: str, pairs: Mapping[str, Any]) -> str:
    rows = [
        (escape(key), f"<code>{escape(value)}</code>")
        for key, value in pairs.items()
        if value not in (None, "", [])
    ]
    return f"{_table((title, ''), rows, frozenset({1}))}" if rows else ""


def _flat(tree: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list | tuple) and len(value) > 4:
            yield f"{prefix}{key}", f"{len(value)} of them"
        else:
            yield f"{prefix}{key}", value
