"""What is said of several models: form, ancestors, deltas, methods, and a recipe that plans."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

import cermet
from cermet.core.registry import all_methods
from tests.learn.pools import WORDS, write_tokenizer
from tests.recipes.pools import llama, llama_config, save, save_llama

_MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def _tuned(seed: int, size: float = 0.01, only: str = "") -> dict[str, Tensor]:
    """The llama of seed 0 and a random delta, on the tensors whose names hold `only`."""
    drawn = {n: t - float("norm" in n) for n, t in llama(seed).items()}
    return {n: t + size * drawn[n] if only in n else t for n, t in llama().items()}


def _saved(root: Path, **models: Mapping[str, Tensor]) -> list[str]:
    return [save(root / name, weights, llama_config()) for name, weights in models.items()]


def test_numbers_are_those_of_the_deltas(tmp_path: Path) -> None:
    base, one, two = llama(), _tuned(1), _tuned(2, 0.02)
    found = cermet.compare(*_saved(tmp_path, base=base, one=one, two=two))

    def flat(model: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([(model[n].double() - base[n].double()).reshape(-1) for n in base])

    d1, d2 = flat(one), flat(two)
    size = math.sqrt(sum(float(t.double().square().sum()) for t in base.values()))
    assert [e.model for e in found.experts] == ["one", "two"]
    assert found.experts[0].norm == pytest.approx(float(d1.norm()))
    assert found.experts[1].relative == pytest.approx(float(d2.norm()) / size)
    assert found.experts[0].kept == pytest.approx(float(d1 @ (d1 + d2) / (d1 @ d1)))
    (between,) = found.between
    assert between.cosine == pytest.approx(float(torch.cosine_similarity(d1, d2, dim=0)))
    both = (d1 != 0) & (d2 != 0)
    opposite = both & (d1.sign() != d2.sign())
    assert between.conflict == pytest.approx(float(opposite.sum() / both.sum()))
    assert found.deltas is not None
    assert found.deltas.conflict == between.conflict
    assert sum(g.parameters for g in found.roles) == len(d1)
    assert [g.name for g in found.layers] == ["layer 0", "layer 1"]
    assert [g.name for g in found.roles] == (
        ["embedding", "q", "k", "v", "o", "gate", "up", "down", "norm", "head"]
    )


@pytest.mark.parametrize("threads", [1, 3])
def test_numbers_do_not_depend_on_threads(threads: int, tmp_path: Path) -> None:
    paths = _saved(tmp_path, base=llama(), one=_tuned(1), two=_tuned(2))
    assert cermet.compare(*paths, threads=threads) == cermet.compare(*paths, threads=2)


def test_relatives_get_a_recipe_that_plans(tmp_path: Path) -> None:
    found = cermet.compare(*_saved(tmp_path, base=llama(), one=_tuned(1), two=_tuned(2)))
    assert (found.verdict, found.same_form, found.shared) == ("same ancestor", True, 21)
    assert found.recipe is not None
    assert found.recipe["merge_method"] == "task_arithmetic"
    plan = cermet.plan(found.recipe)
    assert len(plan.tasks) == 21
    assert {m.name for m in found.methods} == set(all_methods())
    fits = {m.name: m for m in found.methods}
    assert fits["ties"].applies
    assert fits["slerp"].reason == "takes 1 model beside a base"
    assert fits["layer_swapping"].reason == "takes 2 models"
    assert "score, base_score" in fits["led_merging"].reason
    assert fits["ties_sv"].experimental


def test_deltas_that_go_the_same_way_are_weighed_less(tmp_path: Path) -> None:
    base, tuned = llama(), _tuned(1)
    near = {n: t + 1e-6 for n, t in tuned.items()}
    found = cermet.compare(*_saved(tmp_path, base=base, one=tuned, two=near))
    assert found.recipe is not None
    assert not any("looks more like the base" in s for s in found.findings)
    weights = {m["parameters"]["weight"] for m in found.recipe["models"]}
    assert weights == {0.5}
    assert "with the weight 0.5 keeps 100% of each" in found.advice[0]


def test_deltas_that_cancel_are_elected(tmp_path: Path) -> None:
    base, tuned = llama(), _tuned(1)
    back = {n: 2 * base[n] - 0.99 * tuned[n] - 0.01 * base[n] for n in base}
    found = cermet.compare(*_saved(tmp_path, base=base, one=tuned, two=back))
    assert found.recipe is not None
    assert found.recipe["merge_method"] == "ties"
    assert "pull against each other" in found.advice[0]
    cermet.plan(found.recipe)


def test_unrelated_models_are_refused_by_every_method(tmp_path: Path) -> None:
    found = cermet.compare(*_saved(tmp_path, a=llama(0), b=llama(1)))
    (pair,) = found.pairs
    assert (found.verdict, pair.relation, found.recipe) == ("unrelated", "unrelated", None)
    assert pair.matrices is not None
    assert abs(pair.matrices) < 0.1
    assert not any(m.applies for m in found.methods)
    assert all("share no ancestor" in m.reason for m in found.methods)
    norm = next(g for g in found.roles if g.name == "norm")
    assert (norm.weights[0] or 0) > 0.9  # which is why norms are no evidence


def test_equal_models_have_nothing_to_combine(tmp_path: Path) -> None:
    found = cermet.compare(*_saved(tmp_path, a=llama(), b=llama()))
    assert (found.verdict, found.pairs[0].equal, found.experts[0].norm) == ("equal", 21, 0.0)
    assert "nothing to combine" in found.methods[0].reason
    assert (found.recipe, found.spaces) == (None, ())


def test_another_base_is_seen(tmp_path: Path) -> None:
    one, base, two = _saved(tmp_path, one=_tuned(1), base=llama(), two=_tuned(2))
    found = cermet.compare(one, base, two)
    seen = {s.model: s.cosine for s in found.starts}
    assert seen["base"] == pytest.approx(0.0, abs=0.05)
    assert seen["one"] == pytest.approx(0.7, abs=0.05)
    assert found.recipe is None
    assert found.advice == (f"Compare again with --base {base} before you choose a method.",)
    assert any("base looks more like the base" in s for s in found.findings)
    again = cermet.compare(one, base, two, base=base)
    assert [m.name for m in again.models] == ["base", "one", "two"]
    assert again.recipe is not None


def test_a_low_rank_on_some_matrices_is_seen(tmp_path: Path) -> None:
    base = llama()
    draw = torch.Generator().manual_seed(5)
    tuned = {
        n: t + 0.1 * torch.randn(t.shape[0], 1, generator=draw) @ torch.randn(1, t.shape[1])
        if "q_proj" in n or "v_proj" in n
        else t
        for n, t in base.items()
    }
    found = cermet.compare(*_saved(tmp_path, base=base, tuned=tuned))
    (expert,) = found.experts
    assert (expert.unchanged, expert.tensors, expert.rank, expert.looked_at) == (17, 21, 1, 4)
    said = "\n".join(found.findings)
    assert "tuned leaves as they are: embedding, k, o, gate, up, down, norm, head." in said
    assert "rank 1 or less in all 4 matrices looked at, as a LoRA adapter" in said


def test_no_subspaces_are_looked_at_on_request(tmp_path: Path) -> None:
    found = cermet.compare(*_saved(tmp_path, a=llama(), b=_tuned(1), c=_tuned(2)), subspaces=0)
    assert found.spaces == ()
    assert (found.between[0].left, found.experts[0].looked_at) == (None, 0)


def test_another_form_is_told_tensor_by_tensor(tmp_path: Path) -> None:
    paths = [save_llama(tmp_path / "a"), save_llama(tmp_path / "b", layers=3)]
    found = cermet.compare(*paths)
    assert (found.same_form, found.shared) == (False, 21)
    extra = found.tensor_differences[0]
    assert (extra.model, extra.base_shape) == (paths[1], None)
    assert ".layers.2." in extra.tensor
    assert "use slices" in found.methods[0].reason
    assert any("num_hidden_layers: 2, 3" in s for s in found.findings)
    vocabulary = llama()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        vocabulary[name] = torch.ones(48, 16)
    found = cermet.compare(paths[0], save(tmp_path / "c", vocabulary, llama_config(vocab_size=48)))
    assert (found.shared, found.verdict, found.recipe) == (19, "equal", None)
    assert "48x16 and not 40x16" in found.findings[0]


def test_models_that_share_nothing_are_unlike(tmp_path: Path) -> None:
    other = save(tmp_path / "b", {"x": torch.ones(2, 2)})
    found = cermet.compare(save_llama(tmp_path / "a"), other)
    assert (found.verdict, found.shared, found.pairs, found.deltas) == ("unlike", 0, (), None)
    assert not any(m.applies for m in found.methods)


def test_a_tied_head_has_a_twin_in_a_stored_one(tmp_path: Path) -> None:
    tied, config = llama(head=False), llama_config(tie_word_embeddings=True)
    stored = {**tied, "lm_head.weight": tied["model.embed_tokens.weight"].clone()}
    paths = [save(tmp_path / "a", stored, llama_config()), save(tmp_path / "b", tied, config)]
    assert cermet.compare(*paths).same_form
    assert cermet.compare(*reversed(paths)).same_form


def test_models_that_hold_no_numbers_are_named(tmp_path: Path) -> None:
    broken = _tuned(1)
    broken["lm_head.weight"][0, 0] = math.nan
    found = cermet.compare(*_saved(tmp_path, a=llama(), b=broken))
    assert "b holds NaN or infinity in lm_head.weight." in found.findings
    assert found.methods[0].reason == "b holds NaN or infinity in lm_head.weight"
    head = next(t for t in found.tensors if t.numbers.name == "lm_head.weight")
    assert head.broken == (0, 1)


def test_tokenizers_are_compared_with_the_base_s(tmp_path: Path) -> None:
    paths = _saved(tmp_path, a=llama(), b=_tuned(1), c=_tuned(2))
    for path, words in zip(paths, (WORDS, WORDS, [*WORDS[:5], "new", *WORDS[6:]]), strict=True):
        write_tokenizer(Path(path), words)
    found = cermet.compare(*paths)
    assert [v.same for v in found.vocabularies] == [True, False]
    (said,) = [s for s in found.findings if s.startswith("The tokenizer of c")]
    assert "0 moved, 1 missing, 1 new; first at id 5: 'on' became 'new'." in said


def test_deep_models_are_told_in_bands(tmp_path: Path) -> None:
    deep = llama(0, layers=20)
    other = {n: t + 0.01 * llama(1, layers=20)[n] for n, t in deep.items()}
    paths = [save(tmp_path / n, w, llama_config(20)) for n, w in (("a", deep), ("b", other))]
    bands = cermet.compare(*paths, subspaces=0).layers
    assert [b.name for b in bands][:3] == ["layers 0-1", "layers 2-4", "layers 5-6"]
    assert sum(b.tensors for b in bands) == 20 * 9


def test_adapters_are_compared_on_their_base(tmp_path: Path) -> None:
    from tests.docs.pool import make_models

    make_models(tmp_path)
    base, chat = tmp_path / "models" / "base", tmp_path / "adapters" / "chat"
    found = cermet.compare(base, f"{base}+{chat}")
    assert [m.name for m in found.models] == ["base", "base+chat"]
    assert (found.experts[0].unchanged, found.experts[0].rank) == (38, 2)
