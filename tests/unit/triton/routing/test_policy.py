"""Policy files: what is read from them, and what is said of those that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.triton.routing.policy import Policies, Policy, PolicyError, has, read_policies
from tests.unit.triton.routing.parts import model

FILE = """
default:
  prefer_tags: [natural, cpu_ok]
  prefer_resident: true
  fallbacks: [edge, tts_espeak]
edge:
  require: [cpu_ok, streaming]
  prefer_resident: false
  models: {de: tts_de, "no": [tts_no, asr_no], "*": tts_any}
lora:
  require: [lora]
"""


def read(tmp_path: Path, text: str) -> Policies:
    path = tmp_path / "routing.yaml"
    path.write_text(text, "utf-8")
    return read_policies(path)


def test_a_file_with_all_of_it(tmp_path: Path) -> None:
    policies = read(tmp_path, FILE)
    edge = policies.get("edge")
    assert policies.names == ["default", "edge", "lora"]
    assert policies.get() is policies.get("default")
    assert policies.get() == Policy("default", ("natural", "cpu_ok"), (), True, (edge, "tts_espeak"), {})
    assert (edge.require, edge.prefer_resident) == (("cpu_ok", "streaming"), False)
    assert edge.models == {"de": ("tts_de",), "no": ("tts_no", "asr_no"), "*": ("tts_any",)}
    assert policies.get("lora").require == ("lora",)


def test_without_a_file_there_is_a_default() -> None:
    assert read_policies(None).get() == Policy("default", (), (), True, (), {})


def test_a_file_without_a_default_has_the_usual_one(tmp_path: Path) -> None:
    policies = read(tmp_path, "edge:\nlora: {fallbacks: [default, edge]}")
    assert policies.get("").name == "default"
    assert policies.get("edge") == Policy("edge")
    assert policies.get("lora").fallbacks == (Policy("default"), Policy("edge"))


def test_pins_are_of_the_region_then_the_language_then_any() -> None:
    policy = Policy(models={"*": ("any",), "de": ("german",), "de-CH": ("swiss",)})
    assert policy.pins("de_ch") == ("swiss",)
    assert policy.pins("de-AT") == policy.pins("DE") == ("german",)
    assert policy.pins("fr") == policy.pins("") == ("any",)
    assert Policy(models={"de": ("german",)}).pins("") == ()


def test_an_unknown_policy_is_refused_by_name() -> None:
    with pytest.raises(PolicyError, match=r"^no routing policy fast: there is default, edge$"):
        Policies([Policy("edge")]).get("fast")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "a mapping of policies by name is needed, such as default: {}"),
        ("- default", "a mapping of policies by name is needed"),
        ("a: [", ", line 1: this is no YAML: "),
        ("a:\n  require: []\n  require: []", ", line 3: this is no YAML: require is given twice"),
        ("a: {}\na: {}", ", line 2: this is no YAML: a is given twice"),
        ("a: {requires: []}", "a.requires is not known: there is prefer_tags, require, prefer_resident, "),
        ("a: {require: cpu_ok}", "a.require: a list is needed, such as [one, two]"),
        ("a: {require: [[x]]}", "a.require: a list is needed"),
        ("a: {require: ['']}", "a.require: '' is no name"),
        ("a: {prefer_resident: maybe}", "a.prefer_resident: true or false is needed"),
        ("a: {models: tts_x}", "a.models: a mapping of languages to models is needed"),
        ("a: {models: {german!: tts_x}}", "a.models: 'german!' is no language"),
        ("a: {models: {de: {}}}", "a.models.de: a list is needed"),
        ("a: 3", "a: a mapping is needed, such as {require: [cpu_ok]}"),
        ("a b: {}", "'a b' is no name for a policy"),
        ("a: {fallbacks: [a]}", "a.fallbacks: these policies fall back in a circle: a → a"),
        (
            "default: {fallbacks: [b]}\nb: {fallbacks: [c]}\nc: {fallbacks: [b]}",
            "c.fallbacks: these policies fall back in a circle: b → c → b",
        ),
        ("a: {fallbacks: [x], nope: 1}\nb: {no: 1}", "routing.yaml: b.no is not known"),
    ],
)
def test_what_is_wrong_is_said_with_file_and_key(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(PolicyError) as refused:
        read(tmp_path, text)
    assert str(refused.value).startswith(str(tmp_path / "routing.yaml"))
    assert sentence in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"cannot be read from .*none\.yaml: No such file or directory$"):
        read_policies(tmp_path / "none.yaml")


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(PolicyError, match="it is not UTF-8 text"):
        read_policies(tmp_path / "x.yaml")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "a: {fallbacks: [tts_c]}",
            "a.fallbacks: tts_c is neither a model nor a policy: there is tts_a, tts_b",
        ),
        ("a: {models: {de: tts_c}}", "a.models.de: tts_c is no model: there is tts_a, tts_b"),
    ],
)
def test_names_of_models_that_are_not_there_are_refused(tmp_path: Path, text: str, sentence: str) -> None:
    policies = read(tmp_path, text)
    with pytest.raises(PolicyError) as refused:
        policies.check([model("tts_a"), model("tts_b")])
    assert str(refused.value).endswith(f"routing.yaml: {sentence}")


def test_a_requirement_that_no_model_meets_is_a_doubt(tmp_path: Path) -> None:
    policies = read(tmp_path, "a: {require: [cpu_ok, lora], fallbacks: [tts_a], models: {de: tts_a}}")
    (doubt,) = policies.check([model("tts_a")])
    assert doubt.endswith("routing.yaml: a.require: no model has lora, so this policy only ever falls back")
    assert policies.check([model("tts_a", tags=("lora",))]) == []


def test_conditions_are_read_from_the_model_itself() -> None:
    heavy = model("tts_x", needs_gpu=True, inputs=("TEXT", "REFERENCE_AUDIO"), tags=("lora", "zero-shot"))
    plain = model("asr_x", streaming=False)
    assert [has(heavy, word) for word in ("gpu", "cpu_ok", "streaming", "zero_shot", "lora")] == [
        True,
        False,
        True,
        True,
        True,
    ]
    assert [has(plain, word) for word in ("gpu", "cpu_ok", "streaming", "zero_shot", "lora")] == [
        False,
        True,
        False,
        False,
        False,
    ]
    assert has(model("tts_x", needs_gpu=True, tags=("cpu_ok",)), "cpu_ok")


def test_the_guides_example_is_a_policy_file(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[4] / "docs" / "guides" / "routing.md").read_text("utf-8")
    policies = read(tmp_path, guide.partition("```yaml\n")[2].partition("```")[0])
    assert policies.names == ["default", "edge", "lora"]
    assert policies.get("lora").models == {"de": ("tts_german_lora",)}
    assert [p.name for p in policies.get().fallbacks if isinstance(p, Policy)] == ["edge"]
