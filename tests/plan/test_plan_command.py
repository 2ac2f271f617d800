"""`e2h plan` on every shipped recipe: nothing is loaded, and what fits is what adds up."""

import json
from pathlib import Path

import pytest

from rlhf_e2h.cli import main
from rlhf_e2h.runner.recipe import load_recipe
from rlhf_e2h.tools.plan.advice import advice
from rlhf_e2h.tools.plan.command import make_plan
from rlhf_e2h.tools.plan.launches import read_forms
from rlhf_e2h.tools.plan.printing import show
from rlhf_e2h.training.architecture import known

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.parent.name for path in (ROOT / "recipes").glob("*/recipe.yaml"))


TRAINING = {"load", "forward and backward", "optimiser step", "checkpoint"}
PHASES = {
    **{kind: TRAINING for kind in ("pretrain", "sft", "reward")},
    "ppo": {*TRAINING, "rollout", "log-probabilities"},
    "grpo": {*TRAINING, "rollout"},
    **{kind: {*TRAINING, "sampling", "scoring"} for kind in ("dpo", "rest")},
    **{kind: {"load", "sampling"} for kind in ("sample", "evaluate")},
    "rerank": {"load", "scoring"},
}


def planned(name, gpus, memory, *overrides):
    return make_plan(load_recipe(ROOT / "recipes" / name, list(overrides)), gpus, memory, ROOT / "launch")


def stage(plan, name):
    return next(entry for entry in plan["stages"] if entry["name"] == name)


@pytest.mark.parametrize("name", RECIPES)
def test_every_shipped_recipe_has_a_plan(name, monkeypatch, capsys):
    monkeypatch.setenv("E2H_DATA", "somewhere")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    plan = planned(name, 8, 80e9)
    if name.startswith(("quickstart", "math-smoke", "llemma", "qwen")):
        assert {"sft", "reward", "sample", "rerank", "evaluate"} <= {entry["kind"] for entry in plan["stages"]}
    for entry in plan["stages"]:
        assert entry["tokens"] > 0 and entry["flops"] > 0
        for memory in entry["memory"].values():
            assert memory["total"] == pytest.approx(sum(memory["parts"].values()))
            assert memory["total"] == max(memory["phases"].values()) == memory["phases"][memory["phase"]]
            assert memory["fits"] == (memory["total"] <= plan["usable"])
            assert PHASES[entry["kind"]] <= set(memory["phases"]), entry["name"]
    show(plan)
    assert name in capsys.readouterr().out


def test_full_training_of_seven_thousand_million_weights_needs_divided_states():
    """16 bytes a parameter are 108 GB, more than a GPU has; an eighth of the states fits."""
    plan = planned("llemma-7b-prm800k", 8, 80e9)
    sft = stage(plan, "sft_easy")
    assert not sft["memory"]["ddp"]["fits"]
    assert sft["launch"] == "zero1"
    assert stage(planned("llemma-7b-prm800k", 8, 40e9), "sft_easy")["launch"] in ("zero2", "fsdp", "zero3")
    assert stage(planned("llemma-7b-prm800k", 1, 80e9), "sft_easy")["launch"] in (
        "zero2_offload",
        "zero3_offload",
        None,
    )


def test_the_cheapest_form_that_fits_is_taken_and_more_memory_is_never_dearer():
    names = [form.name for form in read_forms(ROOT / "launch", 8)]
    assert names.index("ddp") < names.index("zero1") < names.index("zero2") < names.index("zero3")
    assert names[-1] == "zero3_offload"
    dearness = [names.index(stage(planned("quickstart", 8, m), "ppo")["launch"]) for m in (1.6e9, 3e9, 80e9)]
    assert dearness == sorted(dearness, reverse=True) and dearness[-1] == names.index("ddp")


def test_what_does_not_fit_is_said_with_what_to_do(capsys):
    code = main(["plan", str(ROOT / "recipes/quickstart"), "--launches", str(ROOT / "launch"), "--gpu-memory", "1.2G"])
    out = capsys.readouterr().out
    assert code == 1
    assert "most of it is activations: lower per_device_train_batch_size" in " ".join(out.split())


def test_a_plan_close_to_the_limit_is_tight_and_34b_is_told_to_split_for_sampling_and_scoring(monkeypatch, capsys):
    """67.5 GB of bf16 weights leave no room on a GPU of 80 GB for caches and a measurement that is 7 % off."""
    monkeypatch.setenv("E2H_DATA", "somewhere")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    plan = planned("llemma-34b-prm800k", 16, 80e9)
    for name in ("bank", "rerank", "evaluate"):
        memory = stage(plan, name)["memory"]["single"]
        assert memory["tight"] or not memory["fits"]
    assert "--tensor-parallel-size" in stage(plan, "bank")["advice"]
    assert "max_tokens_per_batch" in stage(plan, "rerank")["advice"]
    assert all(entry["launch"] for entry in plan["stages"])
    assert not stage(plan, "sft_easy")["memory"]["zero3"]["tight"]
    show(plan)
    shown = " ".join(capsys.readouterr().out.split())
    assert "bank: tight, " in shown and "`vllm serve` with --tensor-parallel-size 2 or more" in shown


def test_vllm_in_the_process_takes_its_share_in_every_phase(monkeypatch):
    monkeypatch.setenv("E2H_DATA", "somewhere")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    engine = "ppo.engine={name: vllm, memory_share: 0.25}"
    with_engine, without = (
        stage(planned("qwen2.5-math-1.5b", 1, 80e9, *more), "ppo")["memory"]["single"]["phases"]
        for more in ([engine], [])
    )
    for name in ("log-probabilities", "forward and backward", "optimiser step", "checkpoint"):
        assert with_engine[name] == pytest.approx(without[name] + 0.25 * 80e9)
    assert with_engine["rollout"] < without["rollout"] + 0.25 * 80e9  # no cache and no logits of our own
    assert with_engine["load"] == without["load"]


def test_room_to_spare_comes_before_low_cost():
    """DDP fits by a hair at this size; ZeRO-1 needs less of the GPU and is taken."""
    roomy = stage(planned("quickstart", 8, 80e9), "ppo")
    assert roomy["launch"] == "ddp"
    just = 1e9 + roomy["memory"]["ddp"]["total"] / 0.92 * 1.02
    close = stage(planned("quickstart", 8, just), "ppo")
    assert close["memory"]["ddp"]["tight"] and close["launch"] != "ddp"


@pytest.mark.parametrize(
    ("kind", "phase", "parts", "hint"),
    [
        ("ppo", "rollout", {"KV cache": 2, "weights": 1}, "lower generation_batch"),
        ("ppo", "log-probabilities", {"logits": 2, "weights": 1}, "lower forward_batch"),
        ("sft", "forward and backward", {"activations": 2, "weights": 1}, "gradient_checkpointing: true"),
        ("dpo", "sampling", {"KV cache": 2, "weights": 1}, "lower decoding.batch_size"),
        ("ppo", "optimiser step", {"optimiser": 2, "weights": 1}, "LoRA"),
        ("ppo", "rollout", {"vLLM engine": 2, "weights": 1}, "engine.memory_share"),
    ],
)
def test_what_to_change_names_the_setting(kind, phase, parts, hint):
    assert hint in advice(kind, phase, parts, False)


def test_json_holds_parts_and_overrides_count(capsys):
    command = ["plan", str(ROOT / "recipes/quickstart"), "--launches", str(ROOT / "launch"), "--json"]
    assert main([*command, "--tokens", "50,100"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert main([*command, "--tokens", "50,100", "ppo.per_device_train_batch_size=16"]) == 0
    second = json.loads(capsys.readouterr().out)
    parts = [stage(plan, "ppo")["memory"]["single"]["parts"]["activations"] for plan in (first, second)]
    assert parts[0] > parts[1]
    # 16 steps of 128 rollouts with a prompt of 50 tokens and a solution cut at 60
    assert stage(first, "ppo")["tokens"] == 16 * 128 * (50 + 60)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "0"], "at least 1"),
        (["--gpu-memory", "lots"], "write 80G"),
        (["--tokens", "5"], "PROMPT,SOLUTION"),
        (["--launches", "nowhere"], "no launch files"),
        (["base=nowhere/at/all"], "give a model folder"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    launches = [] if "--launches" in arguments else ["--launches", str(ROOT / "launch")]
    assert main(["plan", str(ROOT / "recipes/quickstart"), *launches, *arguments]) == 2
    assert message in capsys.readouterr().err


def test_grpo_is_planned_without_a_value_model_and_with_a_reference_where_it_has_one(monkeypatch, capsys):
    monkeypatch.setenv("E2H_DATA", "somewhere")

    def grpo(*overrides):
        command = ["plan", str(ROOT / "recipes/math-smoke"), "--launches", str(ROOT / "launch"), "--json"]
        main([*command, "--tokens", "50,100", "new_tokens=100", "grpo.optional=false", *overrides])
        found = stage(json.loads(capsys.readouterr().out), "grpo")
        return found, found["memory"]["single"]["parts"]

    (once, parts), (again, longer) = grpo(), grpo("grpo.beta=0.1", "grpo.num_iterations=2")
    # 4 problems x 4 completions of 50 + 100 tokens, sampled once however often they are trained on
    assert once["tokens"] == again["tokens"] == 4 * 4 * 150
    # 259 bytes and marks, tied; 2 layers of 4 x 64 x 64 + 3 x 64 x 128 and two norms, and the last norm
    weights = 259 * 64 + 2 * (4 * 64 * 64 + 3 * 64 * 128 + 2 * 64) + 64
    assert parts["weights"] == longer["reference"] == 4 * weights and parts["optimiser"] == 8 * weights
    assert "reference" not in parts
    # a forward pass is a third of training: training once more costs 3, old log-probabilities and the reference 2
    layers = 2 * (2 * (4 * 64 * 64 + 3 * 64 * 128) + 4 * 150 * 64)
    forward = 4 * 4 * (150 * layers + 100 * 2 * 259 * 64)
    assert again["flops"] - once["flops"] == pytest.approx(5 * forward)


def test_a_reward_model_that_learns_from_few_records_costs_what_they_cost(monkeypatch, capsys):
    monkeypatch.setenv("E2H_DATA", "somewhere")
    settings = ["prm.limit=10", "prm.held_out=0.5", "prm.training.batch_size=1", "prm.training.num_train_epochs=2"]
    command = ["plan", str(ROOT / "recipes/math-smoke"), "--launches", str(ROOT / "launch"), "--json"]
    main(
        [
            *command,
            "--tokens",
            "50,70",
            *settings,
            "prm.training.per_device_train_batch_size=1",
            "prm.training.max_length=400",
        ]
    )
    assert stage(json.loads(capsys.readouterr().out), "prm")["tokens"] == 10 / 2 * 2 * (50 + 70)


def test_prefixes_that_are_shared_are_read_once_in_a_plan_too(monkeypatch, capsys):
    """A micro-batch of 4: a text of 120 tokens, and three ends of 7. On PRM800K (phase 1, easy, 16 rows of 235 tokens
    in the mean, solutions of 350) this gives 20 % of the tokens; Qwen's tokenizer counts 23 (296,513 of 1,308,581)."""
    monkeypatch.setenv("E2H_DATA", "somewhere")
    settings = ["graded=null", "limit=10", "held_out=0.5", "training.batch_size=4", "training.num_train_epochs=2"]
    settings += ["training.per_device_train_batch_size=4", "training.max_length=400", "training.share_prefixes=true"]
    command = ["plan", str(ROOT / "recipes/math-smoke"), "--launches", str(ROOT / "launch"), "--json"]
    main([*command, "--tokens", "50,70", *(f"prm.{setting}" for setting in settings)])
    tokens = stage(json.loads(capsys.readouterr().out), "prm")["tokens"]
    assert tokens == pytest.approx(10 / 2 * 2 * (50 + 70 + 3 * 7) / 4)


def test_share_base_holds_adapters_where_policy_and_reward_model_come_from_one_base(monkeypatch):
    monkeypatch.setenv("E2H_DATA", "somewhere")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def parts(*overrides):
        found = stage(planned("qwen2.5-math-1.5b", 1, 80e9, "ppo.value_init=policy", *overrides), "ppo")
        return found["memory"]["single"]["parts"]

    separate, shared = parts(), parts("ppo.share_base=true")
    whole = known("Qwen/Qwen2.5-Math-1.5B")
    adapter = 4 * whole.lora_parameters(32)
    assert separate["reward model"] == 2 * whole.scorer_parameters and "reference" not in separate
    assert shared["reward model"] == adapter + 4 * whole.hidden and shared["reference"] == adapter
    # the value model is an adapter and a head too; its trunk is frozen, so it is bf16, and its head is trained
    trunk = whole.scorer_parameters - whole.hidden - 1
    assert separate["weights"] - shared["weights"] == pytest.approx(2 * trunk, abs=4 * 4)
    # trained in full, or from another base, a reward model is held beside the base
    for override in ("prm.training.lora.r=0", "prm.base=Qwen/Qwen2.5-Math-1.5B-Instruct"):
        assert parts("ppo.share_base=true", override)["reward model"] == separate["reward model"]


def test_thoughts_are_sampled_on_top_of_solutions_also_where_the_format_is_that_of_the_policy(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    thinking = ["sft_easy.format.name=chat", "sft_easy.format.max_thinking_tokens=1000"]
    plain, thought = (planned("qwen2.5-math-1.5b", 8, 80e9, *more) for more in ((), thinking))

    def at(plan, name, phase):
        return stage(plan, name)["memory"]["zero3" if name == "ppo" else "single"]["phases"][phase]

    for name, phase in (("ppo", "rollout"), ("ppo", "forward and backward"), ("bank", "sampling")):
        assert at(thought, name, phase) > 1.05 * at(plain, name, phase), (name, phase)
    solutions = stage(plain, "bank")["tokens"] / (110 / 64 + 260)  # a prompt is read once for its 64 samples
    assert stage(thought, "bank")["tokens"] - stage(plain, "bank")["tokens"] == pytest.approx(1000 * solutions)
    for name in ("sft_easy", "prm"):  # which write nothing
        assert stage(thought, name) == stage(plain, name)
    assert "ppo: thoughts fill their 1,000 tokens (max_thinking_tokens), and count as solution" in thought["assumed"]
    assert not any("thoughts" in line for line in plain["assumed"])
