from dataclasses import dataclass, field
from typing import Literal

import pytest

from rlhf_e2h.runner.config import (
    ConfigError,
    Input,
    Inputs,
    NamedInputs,
    build,
    input_fields,
    parse_override,
    read_yaml,
    result_settings,
    set_dotted,
    setting,
    substitute,
)


@dataclass
class Inner:
    learning_rate: float = 1e-4
    micro: int = setting(8, affects_result=False)


@dataclass
class Outer:
    model: Input
    banks: Inputs = field(default_factory=list)
    judges: NamedInputs = field(default_factory=dict)
    maybe: Input | None = None
    kind: Literal["orm", "prm"] = "orm"
    levels: list[int] | None = None
    inner: Inner = field(default_factory=Inner)


def test_values_are_converted_by_type():
    made = build(Outer, {"model": "m", "levels": [1, 2], "inner": {"learning_rate": "3e-4"}}, "f.yaml")
    assert made.inner.learning_rate == 3e-4  # YAML reads 3e-4 as text
    assert made.levels == [1, 2]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"model": "m", "lebels": [1]}, ["f.yaml", "'lebels'", "did you mean 'levels'"]),
        ({"model": "m", "inner": {"learning_rat": 1}}, ["f.yaml: inner", "did you mean 'learning_rate'"]),
        ({}, ["'model' is missing"]),
        ({"model": "m", "kind": "xrm"}, ["'xrm'", "orm, prm"]),
        ({"model": "m", "levels": 3}, ["levels is 3", "a list"]),
        ({"model": "m", "inner": {"learning_rate": "fast"}}, ["'fast'", "number"]),
        ({"model": 7}, ["model is 7", "text"]),
    ],
)
def test_mistakes_are_named(data, words):
    with pytest.raises(ConfigError) as error:
        build(Outer, data, "f.yaml")
    assert all(word in str(error.value) for word in words)


def test_input_fields_are_found_in_every_form():
    made = build(Outer, {"model": "@a", "banks": ["@b", "@c/x"], "judges": {"prm": "@d"}}, "f")
    assert input_fields(made) == {"model": ["@a"], "banks": ["@b", "@c/x"], "judges": ["@d"]}


def test_result_settings_leave_out_inputs_and_micro_batches_at_any_depth():
    made = build(Outer, {"model": "@a"}, "f")
    settings = result_settings(made)
    assert settings["inner"] == {"learning_rate": 1e-4}
    assert "model" not in settings
    assert settings["kind"] == "orm"


def test_substitution_keeps_types_and_reads_defaults(monkeypatch):
    monkeypatch.setenv("E2H_TEST_WHERE", "there")
    variables = {"n": 3, "base": "m"}
    data = {"a": "${n}", "b": "x/${base}", "c": ["${E2H_TEST_WHERE}"], "d": "${E2H_TEST_UNSET:-fallback}"}
    assert substitute(data, variables, "f") == {"a": 3, "b": "x/m", "c": ["there"], "d": "fallback"}
    with pytest.raises(ConfigError, match="did you mean 'base'"):
        substitute("${bse}", variables, "f")


def test_overrides():
    assert parse_override("a.b=[1, 2]") == ("a.b", [1, 2])
    data = {"a": {"c": 1}}
    set_dotted(data, "a.b", 2)
    assert data == {"a": {"c": 1, "b": 2}}
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        parse_override("seed")


def test_broken_yaml_names_file_and_line(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text("a: 1\nb: [1, 2\nc: 3\n")
    with pytest.raises(ConfigError, match=r"x\.yaml:\d+: not valid YAML"):
        read_yaml(file)
    file.write_text("training: {lora: {r: 2}}\nseed: 1\ntraining: {bf16: true}\n")
    with pytest.raises(ConfigError, match=r"x\.yaml:3: not valid YAML: 'training' is given twice"):
        read_yaml(file)
