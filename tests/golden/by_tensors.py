"""Golden files without a recipe: the original parameters, mapped to ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

import cermet
from tests.golden.case import Case

__all__ = ["BY_TENSORS"]

Model = dict[str, Tensor]


def _merge(case: Case, method: str, **parameters: Any) -> Model:
    return cermet.merge_tensors(method, dict(case.groups["base"]), case.experts, **parameters)


def _stacked(groups: list[Mapping[str, Tensor]]) -> Model:
    """Draws as `merge_tensors` takes them."""
    return {name: torch.stack([g[name].float() for g in groups]) for name in groups[0]}


def _breadcrumbs(case: Case) -> Model:
    given = case.parameters
    return _merge(
        case, "breadcrumbs_official", density=given["top_k_keep"], gamma=given["top_k_remove"],
        remove_first=given["remove_first"], lambda_=given["alpha"],
    )  # fmt: skip


def _consensus(case: Case) -> Model:
    given = case.parameters
    return _merge(
        case, case.method, threshold=given["tall_mask_lambda"], agree=given["prun_thre_k"],
        lambda_=given["scaling_coef"],
    )  # fmt: skip


def _dare(case: Case) -> Model:
    given = case.parameters
    known = {
        "density": 1.0 - given["weight_mask_rate"],
        "rescale": given["use_weight_rescale"],
        "lambda_": given["scaling_coefficient"],
    }
    if given["mask_strategy"] == "magnitude":
        return _merge(case, "dare_magnitude", **known)
    # 1 was dropped: below the density an entry is kept
    return _merge(case, "dare_official", noise=_stacked(case.numbered("drop")), **known)


def _della(case: Case) -> Model:
    given = case.parameters
    return _merge(
        case, "della_official", weight=given["weight"], density=given["density"],
        epsilon=given["window_size"] / 2, normalize=given["normalize"], lambda_=given["lambda"],
        by_tensor=given["variant"] == "della_layer_norm", noise=_stacked(case.numbered("u")),
    )  # fmt: skip


def _led(case: Case) -> Model:
    given = case.parameters
    needs = {name: case.numbered(name) for name in ("score", "base_score")}
    return _merge(
        case, "led_merging", density=given["fuse_rates"], weight=given["lambdas"], needs=needs
    )


def _drm(case: Case) -> Model:
    given = case.parameters
    ignored = given["linear_parameter_ignore_regex_pattern"]
    return _merge(
        case, case.method, density=1 - given["singular_matrices_drop_rate"],
        others_density=1 - given["non_linear_module_entries_drop_rate"],
        weight=given["coefficients"], disjoint=given["enable_disjoint_mean"],
        elect=given["enable_sign_resolution"], vocabulary="mean" if ignored else "spectral",
    )  # fmt: skip


def _doge(case: Case) -> Model:
    """All matrices are processed, or those inside of the layers; nothing else is merged."""
    given = case.parameters
    return _merge(
        case, "doge_ta", density=given["K"] / 100, eta=given["lamda"], rate=given["lr"],
        steps=given["steps"], subspace=given["subspace"], others="base",
        vocabulary="spectral" if given["processed"] == "all 2-D tensors" else "mean",
    )  # fmt: skip


def _emr(case: Case) -> Model:
    given = case.parameters
    return _merge(case, "emr", by_tensor=given["variant"] == "dict", task=given["task"])


def _lines(case: Case) -> Model:
    given = case.parameters
    known = {"alpha": given["alpha"], "beta": given["beta"]}
    base, experts = dict(case.groups["base"]), case.experts
    if given["mode"] == "single_task":
        experts = [experts[given["task_index"]]]
    elif given["mode"] == "ties":
        known_ties = {"density": given["k"] / 100, "normalize": given["agg"] == "mean"}
        steps = [("ties_official", known_ties), ("lines", known)]
        return cermet.merge_tensors(steps, base, experts)
    return cermet.merge_tensors("lines", base, experts, **known)


def _localize(case: Case) -> Model:
    given = case.parameters
    return _merge(
        case, "localize_and_stitch", density=given["sparsity"],
        layers_only=given["scope"] == "layers",
    )  # fmt: skip


def _metagpt(case: Case) -> Model:
    return _merge(case, "metagpt")


def _pcb(case: Case) -> Model:
    method = "pcb_merging_es" if case.parameters["variant"] == "ES" else "pcb_merging"
    given = case.parameters
    return _merge(case, method, density=given["pcb_ratio"], weight=given["lams"])


def _regmean(case: Case) -> Model:
    """Either of two scripts, whose names for one number differ."""
    given = case.parameters
    gamma = given.get("reduce_non_diagonal_ratio", given.get("regmean_reduce_nondiag"))
    gamma = 0.0 if given.get("regmean_diag") else 1.0 if gamma < 0 else gamma
    needs = {"gram": case.numbered("gram")}
    weight = given.get("model_coeffs") or 1.0
    return cermet.merge_tensors(
        "regmean", None, case.experts, gamma=gamma, weight=weight, vocabulary="head", needs=needs
    )


def _rht(case: Case) -> Model:
    given = case.parameters
    return _merge(
        case, "rht", density=given["density"], weight=given["weights"],
        frequency=given["majority_sign_method"] == "frequency",
    )  # fmt: skip


def _spectral(case: Case) -> Model:
    """Their vocabulary is two more matrices."""
    given = case.parameters
    known = {"common": given["common_space_fraction"]} if case.method == "iso_cts" else {}
    return _merge(case, case.method, lambda_=given["scaling_coef"], vocabulary="spectral", **known)


def _wudi(case: Case) -> Model:
    """One of the two scripts leaves all others at the base; the other takes the embedding too."""
    given = case.parameters
    known = {
        "steps": given["iter_num"],
        "rate": given["lr"],
        "lambda_": given.get("scaling_coefficient", 1.0),
    }
    if "exclude_param_names_regex" not in given:
        return _merge(case, "wudi", others="base", **known)
    mean, table = (_merge(case, "wudi", vocabulary=v, **known) for v in ("mean", "spectral"))
    return {**mean, **{name: table[name] for name in table if "embed_tokens" in name}}


def _optmerge(case: Case) -> Model:
    """All that is no matrix of the language model is excluded by name, so it stays the base."""
    given = case.parameters
    method = "optmerge_lora" if given["optimizer"] == "SGD" else "optmerge"
    return _merge(
        case, method, steps=given["iter_num"], rate=given["lr"],
        lambda_=given["scaling_coefficient"], others="base",
    )  # fmt: skip


def _knots(case: Case) -> Model:
    """Every tensor of theirs is a matrix, or a diagonal one. Nothing is dropped at random."""
    given = case.parameters
    drops = {"keep": 1.0 - given["dare_pruning_coeffs"]} if given.get("dare") else {}
    return _merge(
        case, case.method, density=given["topK"] / 100, lambda_=given["scaling_coeffs"][0],
        normalize=given["merging_type"] == "mean", vocabulary="spectral",
        shared="outputs" if given["concat_across_output"] else "inputs", **drops,
    )  # fmt: skip


def _opcm(case: Case) -> Model:
    """Their linear maps are the projections and the head."""
    given = case.parameters
    return _merge(
        case, "opcm", alpha=given["alpha"], diagonal=given["zero_diagonal"], vocabulary="head"
    )


def _stock(case: Case) -> Model:
    return _merge(case, "model_stock")


def _tall_mask(case: Case) -> Model:
    given = case.parameters
    method = "tall_mask_ties" if given["use_ties"] else "tall_mask"
    tasks = [given["task"]] if "task" in given else range(len(case.experts))
    found = {
        task: _merge(case, method, threshold=given["tall_mask_lambda"], task=task) for task in tasks
    }
    if "task" in given:
        return found[given["task"]]
    return {f"expert{task}/{name}": value for task in found for name, value in found[task].items()}


def _twin(case: Case) -> Model:
    given = case.parameters
    shares = [1.0]
    if given["router_prob"] is not None:
        shares = torch.tensor(given["router_prob"]).softmax(dim=0).tolist()
    return _merge(
        case, "twin_merging", lambda_=given["scaling"], density=1 - given["mask_rate"],
        task=dict(zip(given["src_twin"], shares, strict=True)),
    )  # fmt: skip


def _ties(case: Case) -> Model:
    given = case.parameters
    share = given["reset_thresh"]
    known = {"density": share / 100 if share > 1 else share, "lambda_": given["lamda"]}
    if given["merge_func"] == "dis-max":
        return _merge(case, "ties_max", **known)
    return _merge(case, "ties_official", normalize=given["merge_func"] == "dis-mean", **known)


def _widen(case: Case) -> Model:
    given = case.parameters
    return _merge(
        case, "widen", ratio=given["above_average_value_ratio"],
        calibration=given["score_calibration_value"],
    )  # fmt: skip


def _wsm(case: Case) -> Model:
    schedule = case.parameters["schedule"].replace("-", "_")
    return cermet.merge_tensors("wsm", None, case.experts, schedule=schedule)


BY_TENSORS: Mapping[str, Callable[[Case], Model]] = {
    "breadcrumbs_official": _breadcrumbs,
    "consensus_ta": _consensus,
    "consensus_ties": _consensus,
    "dare_official": _dare,
    "della_official": _della,
    "doge_ta": _doge,
    "drm_h": _drm,
    "drm_v": _drm,
    "emr": _emr,
    "knots_dare": _knots,
    "knots_dare_ties": _knots,
    "knots_ties": _knots,
    "led_merging": _led,
    "iso_c": _spectral,
    "iso_cts": _spectral,
    "lines": _lines,
    "localize_and_stitch": _localize,
    "metagpt": _metagpt,
    "model_stock_mergellm": _stock,
    "opcm": _opcm,
    "optmerge": _optmerge,
    "pcb_merging": _pcb,
    "regmean": _regmean,
    "rht": _rht,
    "tall_mask": _tall_mask,
    "ties_official": _ties,
    "tsv_m": _spectral,
    "twin_merging": _twin,
    "widen": _widen,
    "wsm": _wsm,
    "wudi": _wudi,
}
"""Name of a golden method -> our outputs."""
