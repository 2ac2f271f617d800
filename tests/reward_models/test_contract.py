from types import SimpleNamespace

import pytest

from reward_models.contract import KEY, StepContract


def test_defaults_are_the_papers():
    contract = StepContract("prm")
    assert contract.prompt("1+1?") == "# Question\n\n1+1?\n\n# Solution\n\n"
    assert [StepContract(kind).aggregation for kind in ("orm", "prm", "oprm")] == ["last", "min", "min"]


def test_survives_a_configuration():
    contract = StepContract("oprm", template="Q: {problem}\nA: ", separator="\n", aggregation="prod")
    config = SimpleNamespace()
    contract.write_to(config)
    assert StepContract.from_config(config) == contract


def test_checkpoint_without_contract_is_refused_with_its_architecture():
    config = SimpleNamespace(architectures=["LlamaForCausalLM"])
    with pytest.raises(ValueError, match=r"models/x: config.json has no 'step_contract' \(LlamaForCausalLM\)"):
        StepContract.from_config(config, "models/x")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "reward"}, "kind 'reward' is not known; choose one of orm, prm, oprm"),
        ({"kind": "prm", "template": "no slot"}, "has no {problem}"),
        ({"kind": "prm", "separator": ""}, "separator is empty"),
        ({"kind": "prm", "readout": "marker"}, "give a marker"),
        ({"kind": "prm", "aggregation": "median"}, "median"),
        ({"kind": "prm", "version": 3}, "version 3"),
        ({"kind": "prm", "seperator": "\n"}, "unknown field 'seperator'"),
        ({}, "no field 'kind'"),
    ],
)
def test_wrong_contracts(values, message):
    with pytest.raises(ValueError, match=message):
        StepContract.from_config(SimpleNamespace(**{KEY: values}))
