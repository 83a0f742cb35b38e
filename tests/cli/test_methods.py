"""`cermet methods`: the list, one method from its docstring, JSON for programs."""

from __future__ import annotations

import json

from cermet.core.registry import all_factor_methods, all_methods, all_transforms
from tests.cli.commands import Cermet

_NAMES = (
    "arcee_fusion breadcrumbs breadcrumbs_official breadcrumbs_ties consensus_ta consensus_ties "
    "dare_linear dare_magnitude dare_official dare_ties della della_linear della_official doge_ta "
    "drm_h drm_v emr frank iso_c iso_cts karcher knots_dare knots_dare_ties knots_ties "
    "layer_swapping led_merging linear lines lm_cocktail localize_and_stitch metagpt model_stock "
    "multislerp nearswap nuslerp opcm optmerge optmerge_lora passthrough pcb_merging "
    "pcb_merging_es r_tsvm ram ramplus_tl regmean rht rmm sce sce_official shadow_ft slerp stf "
    "swudi tall_mask tall_mask_ties task_arithmetic ties ties_max ties_official ties_sv tsv_m "
    "twin_merging varm widen wsm wudi"
)
_TRANSFORMS = "drop keep lines rescale trim trim_globally"
_ADAPTERS = (
    "lora_cat lora_dare_linear lora_dare_linear_svd lora_dare_ties lora_dare_ties_svd lora_lego "
    "lora_linear lora_magnitude_prune lora_magnitude_prune_svd lora_reduced lora_sum lora_svd "
    "lora_ties lora_ties_svd"
)


def test_the_list_has_a_line_for_each(cermet: Cermet) -> None:
    done = cermet("methods")
    assert done.code == 0
    names = (_NAMES, _TRANSFORMS, _ADAPTERS)
    shelves = (all_methods(), all_transforms(), all_factor_methods())
    for group, known, shelf in zip(done.out.split("\n\n"), names, shelves, strict=True):
        lines = group.splitlines()[1:]
        assert [line.split()[0] for line in lines] == sorted(known.split()) == list(shelf)
        for line, found in zip(lines, shelf.values(), strict=True):
            assert line.rstrip().endswith(found.summary)
            assert ("experimental: " in line) == bool(found.experimental)


def test_the_long_list_says_what_each_is_for(cermet: Cermet) -> None:
    parts = cermet("methods", "--long").out.strip().split("\n\n")
    everything = {**all_methods()}
    for part, (name, found) in zip(parts, everything.items(), strict=False):
        assert part.startswith(f"{name}  ({found.source})\n  {found.summary}\n  when: ")
        assert f"passes: up to {found.passes}; memory: " in part
        assert ("\n  experimental: " in part) == bool(found.experimental)
    assert len(parts) == len(everything) + len(all_transforms()) + len(all_factor_methods())
    assert "needs: base, score, base_score;" in parts[list(all_methods()).index("led_merging")]
    assert " float32 blocks of whole rows a thread" in parts[list(all_methods()).index("della")]


def test_a_transform_is_explained_too(cermet: Cermet) -> None:
    done = cermet("methods", "rescale")
    assert (done.code, done.out.count("In a pipeline"), done.out.count("In a recipe")) == (0, 1, 0)
    assert "up to 1 more over the weights" in done.out


def test_a_method_on_adapters_is_explained_too(cermet: Cermet) -> None:
    done = cermet("methods", "lora_reduced")
    assert (done.code, done.out.count("In a recipe whose models are LoRA adapters")) == (0, 1)
    assert "rank              int; default None" in done.out
    assert "float32 blocks" not in done.out


def test_a_name_of_both_kinds_is_explained_twice(cermet: Cermet) -> None:
    done = cermet("methods", "lines")
    assert (done.out.count("In a pipeline"), done.out.count("In a recipe")) == (1, 1)
    found = json.loads(cermet("methods", "lines", "--json").out)
    assert (found["kind"], found["transform"]["kind"]) == ("merge", "transform")


def test_one_is_explained_by_its_docstring(cermet: Cermet) -> None:
    done = cermet("methods", "breadcrumbs")
    assert done.code == 0
    assert done.out.startswith("breadcrumbs  (arXiv:")
    for words in ("Maths", "Parameters", "Example", "Departures", "In a recipe"):
        assert words in done.out
    assert "base model: required" in done.out
    numbers = {line.split()[0]: line for line in done.out.splitlines() if "; " in line}
    assert "float, one for each model; required" in numbers["weight"]
    assert "float, one for each model; default 0.01" in numbers["gamma"]
    assert "float; default 1" in numbers["lambda"]
    assert "accepted, no effect" in done.out


def test_json_for_programs(cermet: Cermet) -> None:
    everything = json.loads(cermet("methods", "--json").out)
    transforms = [m["name"] for m in everything if m["kind"] == "transform"]
    assert transforms == _TRANSFORMS.split()
    adapters = [m["name"] for m in everything if m["on"] == "factors"]
    assert adapters == _ADAPTERS.split()
    found = {m["name"]: m for m in everything if m["kind"] == "merge" and m["on"] != "factors"}
    assert set(found) == set(_NAMES.split())
    one = json.loads(cermet("methods", "slerp", "--json").out)
    assert one == found["slerp"]
    assert (one["models"], one["base"], one["random"], one["on"]) == (
        "1", "required", False, "weights",
    )  # fmt: skip
    assert one["parameters"] == [
        {"name": "t", "per_model": False, "type": "float", "required": True, "default": None}
    ]
    assert one["when"] == "two models, with t by layer and filter"
    assert (one["passes"], one["memory_blocks"], one["grain"]) == (2, 6.0, "element")
    assert [n["name"] for n in found["led_merging"]["statistics"]] == ["score", "base_score"]
    assert "abstract" in found["ties_sv"]["experimental"]
    assert found["ties"]["experimental"] == ""
    assert found["della"]["random"] is True
    assert found["linear"]["base"] == "-"


def test_an_unknown_method_names_the_nearest(cermet: Cermet) -> None:
    done = cermet("methods", "slurp")
    assert (done.code, done.out) == (2, "")
    assert "There is no transform or method 'slurp'. Did you mean 'slerp'?" in done.said


def test_parameters_are_those_that_recipes_know() -> None:
    """Names, what is per model, what is required and what is the default, as in mergekit."""
    deltas = {"weight": "*!", "density": "*1.0", "lambda": "1.0"}
    expected = {
        "linear": {"weight": "*!", "normalize": "True"},
        "slerp": {"t": "!"},
        "nuslerp": {"weight": "*!", "nuslerp_flatten": "True", "nuslerp_row_wise": "False"},
        "multislerp": {"weight": "*!", "normalize_weights": "True", "eps": "1e-08"},
        "karcher": {"max_iter": "10", "tol": "1e-05"},
        "ties": {**deltas, "normalize": "True"},
        "dare_linear": {**deltas, "rescale": "True"},
        "dare_ties": {**deltas, "rescale": "True"},
        "breadcrumbs": {**deltas, "gamma": "*0.01"},
        "breadcrumbs_ties": {**deltas, "gamma": "*0.01"},
        "della": {**deltas, "epsilon": "*0.15", "normalize": "True", "rescale": "True"},
        "della_linear": {**deltas, "epsilon": "*0.15", "rescale": "True"},
        "sce": {"select_topk": "1.0"},
        "ramplus_tl": {"epsilon": "1e-05", "r": "0.1", "alpha": "0.2"},
        "model_stock": {"filter_wise": "False"},
        "nearswap": {"t": "!"},
        "arcee_fusion": {},
        "passthrough": {"scale": "*None"},
    }
    for method, parameters in expected.items():
        found = {}
        for p in all_methods()[method].parameters.values():
            default = p.default[0] if isinstance(p.default, tuple) else p.default
            found[p.name] = ("*" if p.per_model else "") + ("!" if p.required else str(default))
        known = set(found) | set(all_methods()[method].accepts)
        assert parameters.items() <= found.items(), method
        assert set(parameters) <= known, method
