"""The order of candidates: each criterion by itself, and the whole as a total order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.triton.routing.choose import (
    Candidate,
    NothingFits,
    Want,
    decide,
    fallback,
    rank,
    refusal,
    stand_in,
    why,
)
from gateway.triton.routing.figures import Load
from gateway.triton.routing.policy import Policy
from tests.unit.triton.routing.parts import candidate, model, names

ANY = Policy()
TTS = Want("tts")


def order(want: Want, *candidates: Candidate, policy: Policy = ANY) -> list[str]:
    shuffled = list(candidates)
    random.shuffle(shuffled)
    return names(rank(shuffled, want, policy))


def test_only_the_family_counts() -> None:
    assert order(TTS, candidate("asr_a"), candidate("tts_a"), candidate("vad_a")) == ["tts_a"]


def test_language_the_exact_region_then_the_language_then_models_that_name_none() -> None:
    found = order(
        Want("tts", "de-CH"),
        candidate("tts_1", languages=("de-CH",), queue=9),
        candidate("tts_2", languages=("de",), queue=8),
        candidate("tts_3", languages=("de-DE",), queue=7),
        candidate("tts_4", languages=(), queue=6),
        candidate("tts_5", languages=("fr",)),
    )
    assert found == ["tts_1", "tts_2", "tts_3", "tts_4"]


def test_strict_wants_take_no_other_region_and_no_unnamed_voice() -> None:
    swiss = candidate("tts_ch", languages=("de-CH",))
    german = candidate("tts_de", languages=("de-DE",), voices=("ann",))
    assert order(Want("tts", "de-DE", strict=True), swiss, german) == ["tts_de"]
    assert order(Want("tts", "de-DE", voice="ann"), candidate("tts_x", languages=("de",)), german) == [
        "tts_de",
        "tts_x",
    ]
    only = Want("tts", "de-DE", voice="ann", strict=True)
    assert order(only, candidate("tts_x", languages=("de",)), german) == ["tts_de"]


def test_capabilities_are_demanded() -> None:
    able = candidate("tts_able", tags=("lora", "zero-shot"), inputs=("REFERENCE_AUDIO",))
    plain = candidate("tts_plain", streaming=False)
    assert order(Want("tts", streaming=True), able, plain) == ["tts_able"]
    assert order(Want("tts", zero_shot=True), able, plain) == ["tts_able"]
    assert order(Want("tts", tags=("lora",)), able, plain) == ["tts_able"]
    assert order(Want("tts", tags=("lora", "natural")), able, plain) == []


def test_a_voice_is_looked_for_by_name() -> None:
    models = (candidate("tts_a", voices=("ann",)), candidate("tts_b", voices=("bob",)))
    assert order(Want("tts", voice="bob"), *models) == ["tts_b"]
    assert order(Want("tts", voice="b.bob"), *models) == ["tts_b"]
    assert order(Want("tts", voice="eve"), *models) == []


def test_the_rate_is_at_least_what_is_asked_for() -> None:
    low, high = candidate("tts_low", sample_rate=16_000), candidate("tts_high", sample_rate=24_000)
    unsaid = candidate("tts_unsaid", sample_rate=0)
    assert order(Want("tts", rate=24_000), low, high, unsaid) == ["tts_high"]
    assert order(Want("tts", rate=16_000), low, high, unsaid) == ["tts_high", "tts_low"]
    assert len(order(TTS, low, high, unsaid)) == 3


def test_resident_then_queue_then_first_chunk_then_default_then_name() -> None:
    found = order(
        TTS,
        candidate("tts_1", queue=0, p50_s=0.09),
        candidate("tts_2", queue=0, p50_s=0.1, default=True),
        candidate("tts_3", queue=0, p50_s=0.1),
        candidate("tts_4", queue=0, p50_s=0.1),
        candidate("tts_5", queue=1, p50_s=0.01, default=True),
        candidate("tts_6", queue=2, p50_s=0.01),
        candidate("tts_0", queue=0, p50_s=0.01, default=True, resident=False),
    )
    assert found == ["tts_1", "tts_2", "tts_3", "tts_4", "tts_5", "tts_6", "tts_0"]


def test_an_unmeasured_model_counts_as_the_median_of_the_measured() -> None:
    found = order(
        TTS,
        candidate("tts_a", p50_s=0.3),
        candidate("tts_b"),
        candidate("tts_c", p50_s=0.1),
        candidate("tts_d", p50_s=0.2),
        candidate("tts_e", p50_s=0.2001),
    )
    assert found == ["tts_c", "tts_d", "tts_b", "tts_e", "tts_a"]
    # What does not fit is not measured by.
    fast = [candidate(f"asr_{number}", p50_s=0.001) for number in range(9)]
    assert order(TTS, candidate("tts_a", p50_s=0.3), candidate("tts_b"), *fast) == ["tts_a", "tts_b"]


def test_the_same_model_goes_to_the_server_with_the_shorter_queue() -> None:
    ranked = rank([candidate("tts_a", "a:1", queue=3), candidate("tts_a", "b:1", queue=2)], TTS, ANY)
    assert [each.server for each in ranked] == ["b:1", "a:1"]


def test_a_model_that_failed_a_moment_ago_is_the_last_choice() -> None:
    assert order(TTS, candidate("tts_a", unwell=True), candidate("tts_b", queue=9)) == ["tts_b", "tts_a"]
    absent = candidate("tts_b", resident=False)
    assert order(TTS, candidate("tts_a", unwell=True), absent) == ["tts_a", "tts_b"], (
        "nothing is loaded for a slip"
    )


def test_preferred_tags_come_after_resident_and_the_first_weighs_most() -> None:
    policy = Policy(prefer_tags=("natural", "cpu_ok"))
    models = (
        candidate("tts_0", needs_gpu=True),
        candidate("tts_1", needs_gpu=True, tags=("natural",), queue=1),
        candidate("tts_2", tags=("natural",), queue=2),
        candidate("tts_3"),
        candidate("tts_4", tags=("natural",), resident=False),
    )
    assert order(TTS, *models, policy=policy) == ["tts_2", "tts_1", "tts_3", "tts_0", "tts_4"]
    unless = Policy(prefer_tags=("natural", "cpu_ok"), prefer_resident=False)
    assert order(TTS, *models, policy=unless) == ["tts_4", "tts_2", "tts_1", "tts_3", "tts_0"]


def test_edge_requires_what_runs_without_a_gpu_and_falls_back() -> None:
    espeak, big = candidate("tts_espeak", queue=5), candidate("tts_big", needs_gpu=True)
    edge = Policy("edge", require=("cpu_ok",), fallbacks=(Policy(),))
    assert order(TTS, espeak, big, policy=edge) == ["tts_espeak", "tts_big"]
    ranked = rank([big], TTS, edge)
    assert names(ranked) == ["tts_big"]
    assert why(ranked[0]).startswith("tts_big: a fallback of the policy edge, ")


def test_lora_requires_the_tag() -> None:
    lora = Policy("lora", require=("lora",))
    assert order(TTS, candidate("tts_a"), candidate("tts_l", tags=("lora",)), policy=lora) == ["tts_l"]
    with pytest.raises(NothingFits, match="no tts model that fits has lora, which the policy lora requires"):
        decide([candidate("tts_a")], TTS, lora)


def test_who_is_chosen_by_the_policy_itself_is_no_fallback_of_it() -> None:
    policy = Policy("own", fallbacks=("tts_a", Policy("rest")))
    (only,) = rank([candidate("tts_a", tags=("lora",))], TTS, policy)
    assert only.standing is not None
    assert only.standing.via == ""


def test_fallbacks_come_in_their_order_and_still_meet_the_request() -> None:
    policy = Policy("lora", require=("lora",), fallbacks=("tts_z", "tts_a", Policy("rest")))
    models = (
        candidate("tts_a"),
        candidate("tts_b"),
        candidate("tts_z", resident=False),
        candidate("asr_a"),
        candidate("tts_fr", languages=("fr",)),
    )
    assert order(Want("tts", "en"), *models, policy=policy) == ["tts_z", "tts_a", "tts_b"]


def test_a_pinned_model_comes_first_for_its_language() -> None:
    policy = Policy(models={"de": ("tts_pin",)})
    pin = candidate("tts_pin", languages=("de", "en"), queue=9, resident=False)
    other = candidate("tts_other", languages=("de-DE", "en"))
    assert order(Want("tts", "de-DE"), pin, other, policy=policy) == ["tts_pin", "tts_other"]
    assert order(Want("tts", "en"), pin, other, policy=policy) == ["tts_other", "tts_pin"]


def test_not_resident_is_loaded_while_a_resident_one_of_the_language_serves() -> None:
    wanted = candidate("tts_w", languages=("de-DE",), voices=("ann",), resident=False)
    idle = candidate("tts_de", languages=("de",), voices=("bob",))
    french = candidate("tts_fr", languages=("fr",))
    want = Want("tts", "de-DE", voice="ann")
    choice = decide([french, idle, wanted], want, ANY)
    assert (choice.wanted.info.name, choice.serves.info.name) == ("tts_w", "tts_de")
    assert choice.note == "tts_w is being loaded: tts_de serves meanwhile"
    alone = decide([french, wanted], want, ANY)
    assert (alone.serves.info.name, alone.meanwhile, alone.note) == ("tts_w", None, "")
    assert decide([idle, wanted], want, ANY, use_stand_in=False).meanwhile is None
    assert decide([idle], Want("tts", "de"), ANY).note == ""


def test_the_same_model_resident_elsewhere_is_no_stand_in() -> None:
    policy = Policy(prefer_resident=False)
    here, there = candidate("tts_a", "a:1", resident=False), candidate("tts_a", "b:1", queue=1)
    choice = decide([here, there], TTS, policy)
    assert (choice.serves.server, choice.meanwhile, choice.note) == ("b:1", None, "")


def test_a_fallback_speaks_the_language_and_is_resident() -> None:
    ranked = rank(
        [
            candidate("tts_a", resident=False),
            candidate("tts_b", languages=("de",)),
            candidate("tts_c", queue=3),
        ],
        TTS,
        ANY,
    )
    found = fallback(ranked, "en-US")
    assert found is not None
    assert found.info.name == "tts_c"
    assert fallback(ranked, "fr") is None
    assert fallback([], "en") is None


@pytest.mark.parametrize(
    ("want", "policy", "sentence"),
    [
        (Want("vad"), ANY, "no vad model: there is asr, tts"),
        (Want("tts", model="tts_x"), ANY, "no tts model tts_x: there is tts_a, tts_b"),
        (Want("tts", "ja-JP"), ANY, "no tts model speaks ja-JP: there is de-DE, en-US"),
        (Want("tts", "en-GB", strict=True), ANY, "no tts model speaks en-GB: there is de-DE, en-US"),
        (Want("tts", "en", voice="eve"), ANY, "no voice eve for en: there is ann"),
        (Want("tts", rate=48_000), ANY, "no tts model that fits makes 48000 Hz: there is 16000 Hz"),
        (Want("tts", zero_shot=True), ANY, "no tts model that fits is zero_shot: there is tts_a, tts_b"),
        (
            Want("tts"),
            Policy("p", require=("lora",)),
            "no tts model that fits has lora, which the policy p requires: there is tts_a, tts_b",
        ),
    ],
)
def test_why_nothing_fits_is_one_sentence(want: Want, policy: Policy, sentence: str) -> None:
    models = [
        candidate("tts_a", voices=("ann",)),
        candidate("tts_b", languages=("de-DE",), voices=("bob",)),
        candidate("asr_a"),
    ]
    assert rank(models, want, policy) == []
    assert refusal(models, want, policy) == sentence
    with pytest.raises(NothingFits) as refused:
        decide(models, want, policy)
    assert str(refused.value) == sentence


def test_where_there_is_nothing_at_all() -> None:
    assert refusal([], TTS, ANY) == "no tts model: there is none at all"


def test_every_step_is_in_the_reason() -> None:
    policy = Policy(prefer_tags=("natural",), models={"en": ("tts_a",)})
    one = candidate("tts_a", "a:1", queue=2, p50_s=0.08, tags=("natural",), default=True)
    two = candidate("tts_b", "b:1", resident=False, languages=(), unwell=True)
    first, second = rank([one, two], Want("tts", "en-US", voice="x"), policy)
    assert why(first) == (
        "tts_a on a:1: pinned for the language, names no voices, speaks the language, resident, preferred as natural, "
        "2 in its queue, first chunk 80 ms, the default"
    )
    assert why(second) == (
        "tts_b on b:1: it failed a moment ago, names no voices, names no languages, not resident, 0 in its queue, "
        "first chunk not measured"
    )


LANGUAGES = st.sampled_from(["", "en", "en-US", "en-GB", "de-DE"])
MODELS = st.builds(
    lambda number, languages, tags, gpu, rate, default: model(
        f"tts_{number}",
        languages=tuple(languages),
        tags=tuple(tags),
        needs_gpu=gpu,
        sample_rate=rate,
        default=default,
    ),
    st.integers(0, 9),
    st.lists(LANGUAGES.filter(bool), max_size=2),
    st.lists(st.sampled_from(["natural", "lora"]), max_size=2),
    st.booleans(),
    st.sampled_from([0, 16_000, 24_000]),
    st.booleans(),
)
CANDIDATES = st.lists(
    st.builds(
        Candidate,
        MODELS,
        st.sampled_from(["a:1", "b:1", "c:1"]),
        st.booleans(),
        st.builds(
            Load, st.integers(0, 3), st.none() | st.sampled_from([0.05, 0.1, 0.2]), unwell=st.booleans()
        ),
    ),
    max_size=12,
    unique_by=lambda each: each.key,
)
WANTS = st.builds(
    Want,
    st.just("tts"),
    LANGUAGES,
    tags=st.sampled_from([(), ("lora",)]),
    rate=st.sampled_from([0, 24_000]),
    strict=st.booleans(),
)
PLAIN = st.builds(
    Policy,
    st.just("plain"),
    st.sampled_from([(), ("natural",), ("cpu_ok", "natural")]),
    st.sampled_from([(), ("cpu_ok",), ("lora",)]),
    st.booleans(),
)
POLICIES = st.builds(
    lambda own, fallbacks: Policy(
        "own", own.prefer_tags, own.require, own.prefer_resident, tuple(fallbacks), {"en": ("tts_1", "tts_2")}
    ),
    PLAIN,
    st.lists(PLAIN | st.sampled_from(["tts_1", "tts_3"]), max_size=2),
)


@settings(max_examples=60)
@given(CANDIDATES, WANTS, POLICIES, st.randoms(use_true_random=False))
def test_the_order_is_total_and_does_not_depend_on_how_candidates_come(
    candidates: list[Candidate], want: Want, policy: Policy, shuffle: random.Random
) -> None:
    ranked = rank(candidates, want, policy)
    again = list(candidates)
    shuffle.shuffle(again)
    assert rank(again, want, policy) == ranked
    assert rank(ranked, want, policy) == ranked
    keys = [each.key for each in ranked]
    assert len(set(keys)) == len(keys)
    assert set(keys) <= {each.key for each in candidates}
    for each in ranked:
        assert why(each)
    if not ranked:
        with pytest.raises(NothingFits):
            decide(candidates, want, policy)


@settings(max_examples=60)
@given(CANDIDATES, WANTS, PLAIN)
def test_what_is_left_of_a_ranking_keeps_its_order(
    candidates: list[Candidate], want: Want, policy: Policy
) -> None:
    """Transitive: taking the best away leaves the rest as it was, where every model has been measured."""
    measured = [each for each in candidates if each.load.p50_s is not None]
    ranked = rank(measured, want, policy)
    if ranked:
        rest = [each for each in measured if each.key != ranked[0].key]
        assert rank(rest, want, policy) == ranked[1:]
        assert decide(measured, want, policy).wanted.info.name == ranked[0].info.name


@settings(max_examples=60)
@given(CANDIDATES, WANTS, POLICIES)
def test_who_serves_is_resident_wherever_a_model_of_the_language_is(
    candidates: list[Candidate], want: Want, policy: Policy
) -> None:
    if not rank(candidates, want, policy):
        return
    choice = decide(candidates, want, policy)
    if not choice.serves.resident:
        assert fallback(rank(candidates, want, policy), want.language) is None
    assert (choice.meanwhile is not None) == bool(choice.note)


def test_who_wants_one_model_by_name_is_served_by_another_while_it_loads() -> None:
    wanted, other = candidate("tts_w", resident=False), candidate("tts_o")
    choice = decide([wanted, other], Want("tts", "en-US", model="tts_w"), ANY)
    assert (choice.wanted.info.name, choice.serves.info.name) == ("tts_w", "tts_o")


def test_a_strict_wish_is_served_by_another_region_while_it_loads() -> None:
    wanted = candidate("tts_w", languages=("de-CH",), resident=False)
    other = candidate("tts_o", languages=("de-DE",))
    choice = decide([wanted, other], Want("tts", "de-CH", strict=True), ANY)
    assert (choice.wanted.info.name, choice.serves.info.name) == ("tts_w", "tts_o")


def test_parleys_own_models_are_never_chosen() -> None:
    assert order(TTS, candidate("parley_leases", family="tts"), candidate("tts_a")) == ["tts_a"]


def test_a_stand_in_is_another_model_of_the_same_region_before_the_same_language() -> None:
    wanted = candidate("tts_w", resident=False, languages=("de-CH",))
    near, same = candidate("tts_a", languages=("de-DE",)), candidate("tts_b", languages=("DE-ch",))
    want = Want("tts", "de-CH", model="tts_w")
    for others, name in (([near, same], "tts_b"), ([near], "tts_a")):
        found = stand_in([wanted, *others], want, ANY)
        assert found is not None
        assert found.info.name == name
    french, asr = candidate("tts_f", languages=("fr-FR",)), candidate("asr_a", languages=("de-CH",))
    assert stand_in([wanted, french, asr], want, ANY) is None
