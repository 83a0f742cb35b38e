"""Recipes that cannot be read or make no sense: a RecipeError with the file and the line.

Negative weights are sensible everywhere (they take a task away), unless weights that are
normalised cancel. What is senseless below zero is: density, gamma, epsilon, eps, tol, alpha,
select_topk, max_iter, and the t of nearswap.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from cermet.core.errors import InputError, MethodError, RecipeError
from tests.reliability.malformed import RECIPE, Case, Pool, cases, each, refused

FILE = "recipe.yaml"
Spoil = Callable[[Pool], object]


def _swap(old: str, new: str) -> Spoil:
    return lambda pool: pool.swap(old, new)


def _text(text: str | bytes) -> Spoil:
    return lambda pool: setattr(pool, "recipe", text)


def _add(text: str) -> Spoil:
    """More lines, from line 11 on."""
    return _text(RECIPE + text)


def _own(text: str) -> Spoil:
    """Other parameters for the first model."""
    return _swap("parameters:\n      weight: 0.5", text)


def _method(name: str, parameters: str, weights: tuple[str, ...] = ("1", "1")) -> Spoil:
    """A recipe of three lines, then parameters on line 4 and models of these weights."""
    models = [
        f"{{model: <{m}>, parameters: {{{'weight: ' + w if w else ''}}}}}"
        for m, w in zip(("a", "b"), weights, strict=False)
    ]
    lines = [
        f"merge_method: {name}",
        "" if name in ("linear", "karcher") else "base_model: <base>",
        "parameters:",
        f"  {{{parameters}}}",
        f"models: [{', '.join(models)}]",
    ]
    return _text("\n".join(lines))


def _weight(value: str) -> Spoil:
    return _swap("weight: 0.5", f"weight: {value}")


def _unknown(line: int, word: str, near: str, spoil: Spoil) -> Case:
    hint = f"Did you mean '{near}'?" if near else ""
    return Case("unknown keys", word, RecipeError, (f"{FILE}:{line}", f"'{word}'", hint), spoil)


def _sliced(text: str) -> Spoil:
    """A recipe that stacks layers: sources from line 4 on."""
    head = "merge_method: task_arithmetic\nbase_model: <base>\nslices:\n"
    return _text(head + text)


_SOURCES = (
    "  - sources:\n"
    "      - {model: <a>, layer_range: [0, 2], parameters: {weight: 1}}\n"
    "      - {model: <base>, layer_range: [0, 2]}\n"
)


def _sources(old: str, new: str) -> Spoil:
    return _sliced(_SOURCES.replace(old, new))


KEYS = [
    _unknown(11, "out_dtyp", "out_dtype", _add("out_dtyp: float32\n")),
    _unknown(11, "merge_methods", "merge_method", _add("merge_methods: ties\n")),
    _unknown(11, "Models", "models", _add("Models: []\n")),
    _unknown(11, "random_seed", "", _add("random_seed: 1\n")),
    _unknown(11, "5", "", _add("5: 1\n")),
    _unknown(11, "<<", "", _add("<<: 1\n")),
    _unknown(5, "paramters", "parameters", _own("paramters: {}")),
    _unknown(5, "weight", "", _own("weight: 0.5")),
    _unknown(6, "wieght", "weight", _swap("weight: 0.5", "wieght: 0.5")),
    _unknown(6, "gamma", "", _swap("weight: 0.5", "gamma: 0.5")),
    _unknown(12, "normalise", "normalize", _add("parameters:\n  normalise: true\n")),
    _unknown(12, "epsilon", "", _add("parameters:\n  epsilon: 0.1\n")),
    _unknown(4, "source", "sources", _sources("sources", "source")),
    _unknown(5, "layer_rang", "layer_range", _sources("layer_range", "layer_rang")),
    _unknown(7, "base_modle", "base_model", _sliced(_SOURCES + "    base_modle: x\n")),
    _unknown(7, "lamda", "lambda", _sliced(_SOURCES + "    parameters: {lamda: 1}\n")),
    _unknown(4, "branch", "", _swap("<a>", "{model: {path: <a>, branch: main}}")),
    _unknown(4, "adapter", "", _swap("<a>", "{model: <a>, adapter: x}")),
    _unknown(4, "name", "", _swap("<a>", "{path: <a>, name: x}")),
]  # fmt: skip

_TYPES = {
    "method number": (1, "merge_method", _swap("task_arithmetic", "5")),
    "method list": (1, "merge_method", _swap("task_arithmetic", "[ties]")),
    "base number": (2, "base_model", _swap("<base>", "5")),
    "base list": (2, "base_model", _swap("<base>", "[a]")),
    "base empty": (2, "base_model", _swap("<base>", '""')),
    "base with two revisions": (2, "base_model", _swap("<base>", "a@b@c")),
    "models word": (3, "models", _text("merge_method: linear\n\nmodels: a\n")),
    "models mapping": (3, "models", _text("merge_method: linear\n\nmodels: {model: a}\n")),
    "models empty": (3, "models", _text("merge_method: linear\n\nmodels: []\n")),
    "model in a list": (3, "models.0", _text("merge_method: linear\n\nmodels: [a]\n")),
    "model missing": (3, "model", _text("merge_method: linear\n\nmodels: [{}]\n")),
    "model null": (4, "model", _swap("<a>", "null")),
    "path number": (4, "path", _swap("<a>", "{model: {path: 5}}")),
    "path missing": (4, "path", _swap("<a>", "{model: {revision: main}}")),
    "adapter number": (4, "lora", _swap("<a>", "{model: <a>, lora: 5}")),
    "parameters list": (5, "parameters", _own("parameters: [1]")),
    "parameters number": (5, "parameters", _own("parameters: 1")),
    "weight word": (6, "weight", _weight("half")),
    "weight truth": (6, "weight", _weight("true")),
    "weight null": (6, "weight", _weight("null")),
    "weight nested": (6, "weight", _weight("[[0.5]]")),
    "weight with a gap": (6, "weight", _weight("[0.5, null]")),
    "weight truth in a list": (6, "weight", _weight("[0.5, true]")),
    "filter without a value": (6, "filtered value", _weight("[{filter: q_proj}]")),
    "value misspelt": (6, "filtered value", _weight("[{filter: q_proj, valeu: 1}]")),
    "filter and number": (6, "filtered value", _weight("[{filter: q_proj, value: 1}, 2]")),
    "filter number": (6, "filter", _weight("[{filter: 5, value: 1}]")),
    "value word": (6, "weight", _weight("[{filter: q_proj, value: half}, {value: 1}]")),
    "filter of nothing": (6, "q_projj", _weight("[{filter: q_projj, value: 1}, {value: 1}]")),
    "flag number": (12, "normalize", _add("parameters:\n  normalize: 2\n")),
    "flag word": (12, "normalize", _add("parameters:\n  normalize: maybe\n")),
    "seed truth": (11, "seed", _add("seed: true\n")),
    "seed fraction": (11, "seed", _add("seed: 1.5\n")),
    "seed word": (11, "seed", _add('seed: "1"\n')),
    "dtype number": (10, "dtype", _swap("float32", "32")),
    "dtype integer": (10, "int8", _swap("float32", "int8")),
    "dtype list": (10, "dtype", _swap("float32", "[float32]")),
    "version": (11, "version", _add("version: 2\n")),
    "template number": (11, "chat_template", _add("chat_template: 5\n")),
    "slices word": (3, "slices", _text("merge_method: linear\n\nslices: a\n")),
    "sources mapping": (4, "sources", _sliced("  - sources: {model: <a>}\n")),
    "sources empty": (4, "sources", _sliced("  - sources: []\n")),
    "range word": (5, "layer_range", _sources("[0, 2]", "all")),
    "range of words": (5, "layer_range", _sources("[0, 2]", '["0", "2"]')),
    "range of truth": (5, "layer_range", _sources("[0, 2]", "[false, true]")),
    "range of fractions": (5, "layer_range", _sources("[0, 2]", "[0.0, 1.5]")),
    "range of one": (5, "layer_range", _sources("[0, 2]", "[2]")),
    "range of three": (5, "layer_range", _sources("[0, 2]", "[0, 1, 2]")),
    "hidden base weight": (6, "weight", _sources("2]}", "2], parameters: {weight: x}}")),
    "hidden top weight": (12, "weight", _add("parameters:\n  weight: heavy\n")),
}  # fmt: skip

TYPES = [
    Case("wrong types", name, RecipeError, (f"{FILE}:{line}", word), spoil)
    for name, (line, word, spoil) in _TYPES.items()
]

_RANGES = {
    "density": ("ties", "density: -0.1"),
    "density 2": ("ties", "density: 1.1"),
    "density 3": ("dare_linear", "density: [0.5, 2]"),
    "density 4": ("dare_ties", "density: .nan"),
    "gamma": ("breadcrumbs", "gamma: -0.01"),
    "gamma 2": ("breadcrumbs_ties", "gamma: 1.5"),
    "epsilon": ("della", "density: 0.9, epsilon: 1.35"),
    "epsilon 2": ("della", "density: 0.9, epsilon: 0.2"),
    "epsilon 3": ("della_linear", "density: 0.1, epsilon: 0.1"),
    "epsilon 4": ("della", "density: 0.5, epsilon: -0.1"),
    "epsilon 5": ("ram", "epsilon: -1"),
    "alpha": ("ramplus_tl", "alpha: -0.2"),
    "select_topk": ("sce", "select_topk: 1.01"),
    "select_topk 2": ("sce", "select_topk: -0.5"),
    "max_iter": ("karcher", "max_iter: -1"),
    "max_iter 2": ("karcher", "max_iter: 1.5"),
    "max_iter 3": ("karcher", "max_iter: 1000000000000, tol: 0"),
    "tol": ("karcher", "tol: -1e-5"),
    "eps": ("multislerp", "eps: -1"),
    "lambda": ("ties", "lambda: .inf"),
    "lambda 2": ("ties", "lambda: 1e400"),
    "lambda 3": ("task_arithmetic", "lambda: 1e200"),
    "lambda 4": ("task_arithmetic", "lambda: nan"),
    "normalize": ("ties", "normalize: 0.5"),
}


def _ranged(name: str) -> Case:
    method, parameters = _RANGES[name]
    key = name.split()[0]
    weights = ("", "") if method in ("ram", "ramplus_tl", "sce", "karcher") else ("1", "1")
    readable = not any(word in parameters for word in (".nan", ".inf", "1e400"))
    word = key if readable else "number"
    spoil = _method(method, parameters, weights)
    return Case("numbers out of range", name, RecipeError, (FILE, word), spoil)


RANGES = [
    *map(_ranged, _RANGES),
    *cases(
        "numbers out of range",
        RecipeError,
        (FILE, "seed"),
        {"negative seed": _add("seed: -1\n"), "seed 2^63": _add(f"seed: {1 << 63}\n")},
    ),
    *cases(
        "numbers out of range",
        RecipeError,
        (FILE, "'t'"),
        {"nearswap t": _method("nearswap", "t: -0.1", ("",))},
    ),
]

CANCEL = [
    *cases(
        "weights that cancel",
        RecipeError,
        (FILE, "weights sum to zero"),
        {
            "linear": _method("linear", "", ("1", "-1")),
            "linear zeros": _method("linear", "", ("0", "0")),
            "linear rounded": _method("linear", "normalize: true", ("0.3", "-0.30000000000000004")),
            "linear words": _method("linear", "", ('"1"', '"-1.0"')),
            "linear by depth": _method("linear", "", ("[1, 0.5]", "-1")),
            "linear at the end": _method("linear", "", ("[0.5, 1]", "-1")),
            "linear in the middle": _method("linear", "", ("[2, 0]", "[-2, 0]")),
            "linear for one tensor": _method(
                "linear", "", ("[{filter: up_proj, value: 2}, {value: 1}]", "-2")
            ),
            "linear without sign": _method("linear", "", ("0.0", "-0.0")),
            "linear tiny": _method("linear", "", ("1e-9", "1e-9")),
            "multislerp": _method("multislerp", "", ("2", "-2")),
            "multislerp zeros": _method("multislerp", "", ("0", "0")),
            "multislerp rounded": _method("multislerp", "", ("0.3", "-0.30000000000000004")),
            "multislerp by depth": _method("multislerp", "", ("[1, 0.5]", "-1")),
        },
    )
]

_COUNTS = {
    "slerp of two": ("slerp", "t: 0.5", 2),
    "slerp of none": ("slerp", "t: 0.5", 0),
    "nearswap of two": ("nearswap", "t: 0.5", 2),
    "arcee_fusion of two": ("arcee_fusion", "", 2),
    "passthrough of two": ("passthrough", "", 2),
    "nuslerp of one": ("nuslerp", "", 1),
    "nuslerp of none": ("nuslerp", "", 0),
    "model_stock of one": ("model_stock", "", 1),
    "ties of none": ("ties", "weight: 1", 0),
    "sce of none": ("sce", "", 0),
    "ram of none": ("ram", "", 0),
    "della of none": ("della", "weight: 1", 0),
    "task_arithmetic of none": ("task_arithmetic", "weight: 1", 0),
}


def _counted(method: str, parameters: str, count: int) -> Spoil:
    listed = ["{model: <base>}", "{model: <a>}", "{model: <b>}"][: count + 1]
    base = "" if method == "passthrough" else "base_model: <base>"
    lines = [f"merge_method: {method}", base, f"parameters: {{{parameters}}}"]
    return _text("\n".join([*lines, f"models: [{', '.join(listed)}]"]))


COUNTS = [
    Case("numbers of models", name, RecipeError, (FILE, f"'{m}'", "takes"), _counted(m, p, n))
    for name, (m, p, n) in _COUNTS.items()
]

_NEED_BASE = (
    "task_arithmetic", "ties", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties",
    "della", "della_linear", "model_stock", "nearswap", "arcee_fusion", "sce", "ram",
    "ramplus_tl", "slerp",
)  # fmt: skip


def _ranges(*ranges: str) -> Spoil:
    """One slice; its sources take these layers, base first, on lines 5 and following."""
    models = ("base", "a", "b")
    lines = [
        f"      - {{model: <{m}>, layer_range: {r}, parameters: {{weight: 1}}}}\n"
        for m, r in zip(models, ranges, strict=False)
    ]
    return _sliced("  - sources:\n" + "".join(lines))


BASES = [
    *cases(
        "bases and layers",
        RecipeError,
        (FILE, "base_model"),
        {
            f"{name} without a base": _text(
                f"merge_method: {name}\nmodels: [{{model: <a>}}, {{model: <b>}}]\n"
            )
            for name in _NEED_BASE
        },
    ),
    *cases(
        "bases and layers",
        RecipeError,
        (f"{FILE}:4", "base"),
        {"base not in the slice": _sliced(_SOURCES.rpartition("      -")[0])},
    ),
    *cases(
        "bases and layers",
        RecipeError,
        (f"{FILE}:5", "layer_range", "2 layers"),
        {
            "to the end and back": _ranges("[0, -1]", "[0, -1]"),
            "beyond": _ranges("[0, 3]", "[0, 3]"),
            "far beyond": _ranges("[0, 1000000000000]", "[0, 1000000000000]"),
            "negative": _ranges("[-1, 1]", "[-1, 1]"),
            "empty": _ranges("[1, 1]", "[1, 1]"),
            "backwards": _ranges("[2, 0]", "[2, 0]"),
        },
    ),
    *cases(
        "bases and layers",
        RecipeError,
        (f"{FILE}:6", "layers"),
        {"unequal": _ranges("[0, 2]", "[0, 1]"), "one beyond": _ranges("[0, 2]", "[1, 3]")},
    ),
    *cases(
        "bases and layers",
        RecipeError,
        FILE,
        {
            "models and slices": _add("slices: []\n"),
            "neither": _text("merge_method: linear\n"),
            "range in models": _swap("- model: <a>", "- model: <a>\n    layer_range: [0, 2]"),
            "no range in a slice": _sources(", layer_range: [0, 2]", ""),
            "delta_of for weights": _text(
                "merge_method: linear\nmodels: [{model: <a>, delta_of: <base>, "
                "parameters: {weight: 1}}]\n"
            ),
            "modules": _add("modules: {}\n"),
            "tokenizer": _add("tokenizer: {source: union}\n"),
        },
    ),
    *cases(
        "bases and layers",
        RecipeError,
        (f"{FILE}:11", "nowhere"),
        {
            "no tokenizer": _add("tokenizer_source: ./nowhere\n"),
            "no template": _add("chat_template: nowhere\n"),
        },
    ),
    *cases(
        "bases and layers",
        MethodError,
        "'ties'",
        {"method misspelt": _swap("task_arithmetic", "tise")},
    ),
    *cases(
        "bases and layers",
        RecipeError,
        (FILE, "weight", "needs"),
        {"no weight": _own("parameters: {}")},
    ),
    *cases(
        "bases and layers",
        InputError,
        ("nowhere",),
        {
            "no base": _swap("<base>", "./nowhere"),
            "no adapter": _swap("<b>", "<b>+./nowhere"),
            "no other base": _swap("model: <b>", "model: <b>\n    delta_of: ./nowhere"),
        },
    ),
]  # fmt: skip

CASES: list[Case] = [*KEYS, *TYPES, *RANGES, *CANCEL, *COUNTS, *BASES]


@each(CASES)
def test_is_refused(case: Case, tmp_path: Path) -> None:
    refused(case, tmp_path)
