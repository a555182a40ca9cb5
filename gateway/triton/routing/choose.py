"""Which of the models that fit serves a request: pure functions over what is known at the moment.

First a filter: family, language, capabilities, rate. What is left is ranked: language, resident, preferred tags,
queue, first chunk, default, name; and of the servers of the best, the one with the least to do. `docs/guides/routing.md` has the order as an operator reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any

from gateway.triton.errors import TritonUnavailable
from gateway.triton.model_info import SYSTEM_PREFIX, ModelInfo
from gateway.triton.routing.figures import IDLE, Load
from gateway.triton.routing.languages import Fit, family_of, language_fit, speaks, voice_of
from gateway.triton.routing.policy import Policy, has


class NothingFits(TritonUnavailable):
    """No model of the repositories does what is asked for. `str()` says which demand none of them meets."""


@dataclass(frozen=True, slots=True)
class Want:
    """What a request asks of a model; empty fields ask for nothing."""

    family: str
    """asr, tts, …"""
    language: str = ""
    """BCP-47."""
    voice: str = ""
    """As `languages.voice_of` reads it. A model that names no voices may have it; those that name it come first."""
    model: str = ""
    """This one and no other, by name."""
    tags: tuple[str, ...] = ()
    """Tags and conditions (see policy.CONDITIONS) that it must have."""
    streaming: bool = False
    zero_shot: bool = False
    """It speaks like a recording that is sent along."""
    rate: int = 0
    """Hz that its audio must have at least."""
    strict: bool = False
    """No other region of the language, and no voice that the model does not name."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Why a candidate has its place; `why()` puts it in words."""

    fit: Fit
    pinned: bool
    tags: tuple[str, ...]
    """The preferred ones that it has."""
    named: bool
    """It names the wanted voice, or none is wanted."""
    p50_s: float
    """The median of the others where its own is not known."""
    via: str = ""
    """Whose fallback it is; "" when the policy itself chose it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model on one server. A list holds each pair once."""

    info: ModelInfo
    server: str = ""
    """host:port, as `servers.Server.address`; "" where there is just one."""
    resident: bool = True
    """It takes requests at once."""
    load: Load = IDLE
    held: int = 0
    """Sessions of this process that have the model on the server."""
    standing: Standing | None = None
    """Given by `rank`."""

    @property
    def key(self) -> tuple[str, str]:
        return self.info.name, self.server


@dataclass(frozen=True, slots=True)
class Choice:
    """What serves a request."""

    wanted: Candidate
    """The best. The caller loads it where it is not resident."""
    meanwhile: Candidate | None = None
    """Serves until `wanted` is loaded."""
    note: str = ""
    """A sentence for the session when it does not get what it asked for, or what it had; else ""."""
    moved: bool = False
    """The model or the server that the session had is gone."""

    @property
    def serves(self) -> Candidate:
        """Not resident: nothing that is resident fits, and the caller has to wait for the load."""
        return self.meanwhile or self.wanted


def rank(candidates: Iterable[Candidate], want: Want, policy: Policy) -> list[Candidate]:
    """The candidates that fit, best first, then those of the policy's fallbacks; [] when none fits.

    The order depends on the candidates alone, not on the order in which they come.
    """
    candidates = list(candidates)
    found: dict[tuple[str, str], Candidate] = {}
    for each in _ranked(candidates, want, policy):
        found[each.key] = each
    for other in policy.fallbacks:
        if isinstance(other, Policy):
            more = rank(candidates, want, other)
        else:
            named = [each for each in candidates if each.info.name == other]
            more = _ranked(named, want, Policy(policy.name))
        for each in more:
            if each.key not in found:
                found[each.key] = replace(each, standing=replace(_standing(each), via=policy.name))
    return list(found.values())


def why(candidate: Candidate) -> str:
    """One sentence on the place of a candidate that `rank` returned."""
    where = f" on {candidate.server}" if candidate.server else ""
    return f"{candidate.info.name}{where}: {', '.join(_reasons(candidate))}"


def refusal(candidates: Iterable[Candidate], want: Want, policy: Policy) -> str:
    """Why `rank` returns nothing, in one sentence that says what there is."""
    left = list(candidates)
    for keeps, what, there in _demands(want, policy):
        kept = [each for each in left if keeps(each.info)]
        if not kept:
            known = ", ".join(sorted({word for each in left for word in there(each.info)}))
            return f"{what}: there is {known or 'none at all'}"
        left = kept
    return "every demand is met"


def fallback(ranked: Sequence[Candidate], language: str) -> Candidate | None:
    """The best that is resident and may speak the language; None when there is none."""
    return next(
        (each for each in ranked if each.resident and language_fit(each.info, language) is not Fit.NONE), None
    )


def stand_in(candidates: Iterable[Candidate], want: Want, policy: Policy) -> Candidate | None:
    """A resident model of the same language to serve while the wanted one loads; its voice may be another."""
    return fallback(rank(candidates, eased(want), policy), want.language)


def eased(want: Want) -> Want:
    """Without what only one model, or one voice, can do."""
    return replace(want, model="", voice="", zero_shot=False, strict=False)


def decide(
    candidates: Sequence[Candidate], want: Want, policy: Policy, *, use_stand_in: bool = True
) -> Choice:
    """The best, and what serves while it loads. use_stand_in: the setting models.fallback.

    Raises: NothingFits.
    """
    ranked = rank(candidates, want, policy)
    if not ranked:
        raise NothingFits(refusal(candidates, want, policy))
    return served_by(ranked[0], candidates, want, policy, use_stand_in=use_stand_in)


def served_by(
    wanted: Candidate,
    candidates: Sequence[Candidate],
    want: Want,
    policy: Policy,
    *,
    use_stand_in: bool = True,
) -> Choice:
    """The choice of `wanted`, with a stand-in where it has to be loaded and there is one."""
    if wanted.resident or not use_stand_in:
        return Choice(wanted)
    other = stand_in(candidates, want, policy)
    if other is None:
        return Choice(wanted)
    if other.info.name == wanted.info.name:
        return Choice(other)
    return Choice(wanted, other, f"{wanted.info.name} is being loaded: {other.info.name} serves meanwhile")


_Demand = tuple[Callable[[ModelInfo], bool], str, Callable[[ModelInfo], Iterable[str]]]


def _demands(want: Want, policy: Policy) -> Iterator[_Demand]:
    """What is kept, what to say when nothing is, and what to name then of those that were left before."""

    def name(info: ModelInfo) -> list[str]:
        return [info.name]

    regions = not want.strict
    yield (
        lambda info: family_of(info) == want.family and not info.name.startswith(SYSTEM_PREFIX),
        f"no {want.family} model",
        lambda info: [family_of(info)],
    )
    if want.model:
        yield lambda info: info.name == want.model, f"no {want.family} model {want.model}", name
    if want.language:
        yield (
            lambda info: speaks(info, want.language, other_regions=regions),
            f"no {want.family} model speaks {want.language}",
            lambda info: info.languages,
        )
    if want.voice:
        yield (
            lambda info: (not info.voices and not want.strict) or _names_voice(info, want),
            f"no voice {want.voice} for {want.language or 'any language'}",
            lambda info: info.voices,
        )
    asked = [*want.tags, *(word for word in ("streaming", "zero_shot") if getattr(want, word))]
    for word in asked:
        yield partial(has, word=word), f"no {want.family} model that fits is {word}", name
    if want.rate:
        yield (
            lambda info: info.sample_rate >= want.rate,
            f"no {want.family} model that fits makes {want.rate} Hz",
            lambda info: [f"{info.sample_rate} Hz"],
        )
    for word in policy.require:
        says = f"no {want.family} model that fits has {word}, which the policy {policy.name} requires"
        yield partial(has, word=word), says, name


def _ranked(candidates: Iterable[Candidate], want: Want, policy: Policy) -> list[Candidate]:
    demands = [keeps for keeps, _, _ in _demands(want, policy)]
    fit = [each for each in candidates if all(keeps(each.info) for keeps in demands)]
    known = [each.load.p50_s for each in fit if each.load.p50_s is not None]
    usual_s = median(known) if known else 0.0
    pins = policy.pins(want.language)

    def placed(each: Candidate) -> Candidate:
        info, p50_s = each.info, each.load.p50_s
        standing = Standing(
            fit=language_fit(info, want.language),
            pinned=info.name in pins,
            tags=tuple(tag for tag in policy.prefer_tags if has(info, tag)),
            named=not want.voice or _names_voice(info, want),
            p50_s=usual_s if p50_s is None else p50_s,
        )
        return replace(each, standing=standing)

    return _spread(sorted(map(placed, fit), key=lambda each: _key(each, policy)))


def _spread(ranked: list[Candidate]) -> list[Candidate]:
    """Which model is best is decided: of the servers that are as ready to serve it, first the one where least is done
    with it. Sessions stay where they begin, and one that is a little slower than the others is not left idle for that."""
    best = ranked[0] if ranked else None
    alike = [
        each
        for each in ranked
        if best is not None
        and each.info.name == best.info.name
        and (each.resident, each.load.unwell) == (best.resident, best.load.unwell)
    ]
    if len(alike) < 2:
        return ranked
    first = min(alike, key=lambda each: (each.load.queue, each.held))
    return [first, *(each for each in ranked if each is not first)]


def _key(each: Candidate, policy: Policy) -> tuple[Any, ...]:
    standing = _standing(each)
    return (
        not standing.pinned,
        not standing.named,
        standing.fit,
        policy.prefer_resident and not each.resident,
        each.load.unwell,  # one failure is no reason to load something else: whether it is dead is being found out
        tuple(tag not in standing.tags for tag in policy.prefer_tags),
        each.load.queue,
        standing.p50_s,
        not each.info.default,
        not each.resident,
        each.info.name,
        each.server,
    )


def _names_voice(info: ModelInfo, want: Want) -> bool:
    return voice_of(info, want.voice, want.language, other_regions=not want.strict) is not None


def _standing(each: Candidate) -> Standing:
    if each.standing is None:
        raise ValueError(f"{each.info.name} was not ranked")
    return each.standing


def _reasons(each: Candidate) -> Iterator[str]:
    standing, load = _standing(each), each.load
    if standing.via:
        yield f"a fallback of the policy {standing.via}"
    if load.unwell:
        yield "it failed a moment ago"
    if standing.pinned:
        yield "pinned for the language"
    if not standing.named:
        yield "names no voices"
    yield {
        Fit.EXACT: "speaks the language",
        Fit.SAME: "speaks the language of any region",
        Fit.OTHER_REGION: "speaks the language of another region",
        Fit.UNNAMED: "names no languages",
        Fit.NONE: "speaks other languages",
    }[standing.fit]
    yield "resident" if each.resident else "not resident"
    if standing.tags:
        yield f"preferred as {' and '.join(standing.tags)}"
    yield f"{load.queue} in its queue"
    measured = f"{load.p50_s * 1000:.0f} ms" if load.p50_s is not None else "not measured"
    yield f"first chunk {measured}"
    if each.info.default:
        yield "the default"
