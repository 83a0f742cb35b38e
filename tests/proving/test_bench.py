"""A bench from pool to table: chosen on validation, told on test, resumed, and refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from cermet import api
from cermet.core.errors import DataError, FormatError, InputError, OutputError
from cermet.proving.bench import Settings, bench, shown
from cermet.proving.candidates import candidates
from cermet.proving.made import Maker
from cermet.proving.records import Records
from cermet.proving.subject import prepared
from cermet.proving.table import Table
from cermet.proving.trial import APART, Heard
from cermet.recipes.pool import Task, read_pool
from tests.proving.pools import KINDS, Nearness, write_quick_pool

_FEW = ("linear", "task_arithmetic", "tsv_m", "tall_mask", "bitdelta", "slerp", "dare_linear")


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_quick_pool(tmp_path_factory.mktemp("pool"))


class _Bench:
    """Runs, and tells what the evaluators were asked."""

    def __init__(self, pool: Path, out: Path) -> None:
        self.pool, self.out = pool, out
        self.made: list[Nearness] = []
        self.lines: list[str] = []

    def __call__(self, **settings: Any) -> list[Table]:
        chosen = Settings(**{"methods": _FEW, "points": 3, "threads": 1, **settings})
        heard = Heard(self.lines.append)
        return bench(str(self.pool), self.out, chosen, heard=heard, evaluators=self._made)

    def _made(self, tasks: Sequence[Task]) -> Nearness:
        self.made.append(Nearness(tasks))
        return self.made[-1]

    @property
    def records(self) -> list[dict[str, Any]]:
        text = (self.out / "records.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def done(pool: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[_Bench, Table]:
    run = _Bench(pool, tmp_path_factory.mktemp("bench") / "out")
    (table,) = run()
    return run, table


def test_references(done: tuple[_Bench, Table]) -> None:
    table = done[1]
    assert table.row(APART).normalised == 1
    assert table.row("base").flips is None  # a text is neither right nor wrong
    assert table.row("expert: cats").shares["cats"] == pytest.approx(1)
    assert table.row("base").out_of_domain == pytest.approx(1, abs=0.1)
    assert table.row("base").bytes * 3 == table.row(APART).bytes
    assert table.metrics == ("bits_per_character",)


def test_an_average_stands_between_base_and_experts(done: tuple[_Bench, Table]) -> None:
    table = done[1]
    best = table.rows[0].normalised
    assert table.row("base").normalised < table.row("linear").normalised < best
    assert [row.normalised for row in table.rows] == sorted(
        (row.normalised for row in table.rows), reverse=True
    )


def test_the_point_that_is_best_on_validation_is_told_on_test(done: tuple[_Bench, Table]) -> None:
    run, table = done
    tried = {
        line["point"]["lambda"]: line["normalised"]
        for line in run.records
        if line["name"] == "task_arithmetic" and line["split"] == "validation"
    }
    assert list(tried) == [0.167, 0.408, 1.0]
    row = table.row("task_arithmetic")
    assert row.chosen == (max(tried, key=lambda point: tried[point]),)
    assert row.at_end == (row.chosen[0] in (0.167, 1.0))
    (told,) = [x for x in run.records if x["name"] == "task_arithmetic" and x["split"] == "test"]
    assert told["point"]["lambda"] == row.chosen[0]
    assert told["recipe"]["parameters"] == {"lambda": row.chosen[0]}
    assert told["versions"]["cermet"]
    assert told["date"]
    assert told["seconds"] > 0


def test_what_is_restored_is_measured_with_all_that_it_needs(done: tuple[_Bench, Table]) -> None:
    run, table = done
    masked, coded = table.row("tall_mask"), table.row("bitdelta")
    assert (masked.kind, coded.kind) == ("assembly", "codec")
    assert masked.out_of_domain is None
    assert masked.bytes > 2 * table.row("base").bytes  # merged and base, with masks
    archives = coded.bytes - table.row("base").bytes
    assert 0 < archives < table.row(APART).bytes
    assert coded.normalised > table.row("linear").normalised
    asked = [call for call in run.made[0].asked if call[0] == "restored" and call[2] == "test"]
    assert {task for _, task, _ in asked} == set(KINDS)


def test_nothing_is_left_and_the_outcomes_are_kept(done: tuple[_Bench, Table]) -> None:
    run, _ = done
    assert not (run.out / "work").exists()
    assert (run.out / "outcomes/3-experts/seed-0/merge/tsv_m/cats.safetensors").is_file()
    assert {p.name for p in run.out.glob("table.*")} == {"table.csv", "table.md", "table.json"}


def test_what_was_not_run_says_why(done: tuple[_Bench, Table]) -> None:
    (missing,) = done[1].not_run
    assert (missing.name, missing.reason[:26]) == ("slerp", "It takes a base and one ex")


def test_a_second_run_measures_nothing_and_tells_the_same(done: tuple[_Bench, Table]) -> None:
    run, table = done
    before = len(run.records)
    assert run() == [table]
    assert run.made[-1].asked == []
    assert len(run.records) == before
    assert shown(run.out) == [table]


def test_a_model_of_the_pool_is_asked_once(pool: Path, tmp_path: Path) -> None:
    run = _Bench(pool, tmp_path / "out")
    settings: dict[str, Any] = {"methods": ("dare_linear",), "points": 1, "experts": (2,),
                                "seeds": 2}  # fmt: skip
    tables = run(**settings)
    models, tasks = ("base", *KINDS), (*KINDS, "mixed")
    own = sorted(call for call in run.made[0].asked if call[0] in models)
    chosen = [(name, name, "validation") for name in KINDS]
    assert own == sorted([*chosen, *((m, t, "test") for m in models for t in tasks)])
    # A run that was stopped among the references knows the experts on their own tasks.
    lines = run.records
    (run.out / "records.jsonl").write_text(
        "".join(json.dumps(x) + "\n" for x in lines if not x["name"].startswith("expert: "))
    )
    assert run(**settings) == tables
    asked = run.made[-1].asked
    assert sorted(asked) == sorted((m, t, "test") for m in KINDS for t in tasks if m != t)


def test_another_run_of_one_seed_gives_one_table(
    done: tuple[_Bench, Table], tmp_path: Path
) -> None:
    run, _ = done
    other = _Bench(run.pool, tmp_path / "out")
    other()
    timed = {"seconds", "peak_bytes", "date"}

    def plain(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{k: v for k, v in line.items() if k not in timed} for line in records]

    assert plain(other.records) == plain(run.records)


class _Stopped(Nearness):
    def outcomes(self, model: Path, *args: Any, **rest: Any) -> Any:
        if len(self.asked) == 50:
            raise KeyboardInterrupt
        return super().outcomes(model, *args, **rest)


def test_a_run_that_was_stopped_goes_on(done: tuple[_Bench, Table], tmp_path: Path) -> None:
    run, table = done
    out, chosen = tmp_path / "out", Settings(methods=_FEW, points=3, threads=1)
    with pytest.raises(KeyboardInterrupt):
        bench(str(run.pool), out, chosen, evaluators=_Stopped)
    assert not (out / "work").exists()
    with (out / "records.jsonl").open("a") as file:
        file.write('{"format": 1, "key": "torn')  # a kill in the middle of a line
    again = _Bench(run.pool, out)
    (found,) = again()
    assert [(r.name, r.normalised, r.chosen) for r in found.rows] == [
        (r.name, r.normalised, r.chosen) for r in table.rows
    ]
    assert len(again.made[0].asked) + 50 < len(run.made[0].asked) + 4


def test_other_points_are_measured_and_the_last_are_told(pool: Path, tmp_path: Path) -> None:
    run = _Bench(pool, tmp_path / "out")
    (three,) = run(methods=("task_arithmetic",))
    (one,) = run(methods=("task_arithmetic",), points=1)
    assert (three.points, one.points) == (3, 1)
    assert one.row("task_arithmetic").chosen == (0.408,)
    assert run(methods=("task_arithmetic",)) == [three]
    assert run.made[-1].asked == []


def test_seeds_of_a_pool_of_ones_own_are_those_of_random_methods(
    pool: Path, tmp_path: Path
) -> None:
    (table,) = _Bench(pool, tmp_path / "out")(methods=("linear", "dare_linear"), seeds=3)
    drawn, plain = table.row("dare_linear"), table.row("linear")
    assert (drawn.seeds, drawn.over) == ((0, 1, 2), "seeds")
    assert (plain.seeds, plain.over) == ((0,), "examples")
    assert drawn.low < drawn.normalised < drawn.high
    assert len(drawn.chosen) == 3


def test_seeds_that_are_shared_out_make_one_table(pool: Path, tmp_path: Path) -> None:
    methods = ("dare_linear",)
    (whole,) = _Bench(pool, tmp_path / "whole")(methods=methods, seeds=3)
    texts = []
    for first, count in ((0, 1), (1, 2)):
        run = _Bench(pool, tmp_path / f"from {first}")
        run(methods=methods, seeds=count, first_seed=first)
        texts.append((run.out / "records.jsonl").read_text("utf-8"))
    both = tmp_path / "both"
    both.mkdir()
    (both / "records.jsonl").write_text("".join(texts), "utf-8")
    (joined,) = shown(both)
    one, other = joined.row("dare_linear"), whole.row("dare_linear")
    assert (one.seeds, one.shares, one.low) == ((0, 1, 2), other.shares, other.low)


def test_pools_of_fewer_experts(pool: Path, tmp_path: Path) -> None:
    run = _Bench(pool, tmp_path / "out")
    whole, part = run(methods=("linear",), experts=(2, 8))
    assert (whole.experts, part.experts) == (3, 2)
    assert set(part.row("linear").shares) == {"cats", "dogs"}
    assert part.row("linear").normalised > whole.row("linear").normalised
    assert "animals has 3 experts; a pool of 8 is not measured." in run.lines


def test_scaling_one_merge_is_merging_again(pool: Path, tmp_path: Path) -> None:
    subject = prepared(read_pool(pool), 0, tmp_path / "work")
    maker = Maker(subject, Nearness(subject.tasks), tmp_path / "work", threads=1)
    tried, _ = candidates(subject.pool, ["tsv_m", "dare_linear"], 3)
    for candidate in tried:
        for point in candidate.grid.points:
            scaled = maker.scaled(candidate, point, "test")
            real = maker.measured(candidate, point, "test").outcomes
            for name, one in real.items():
                assert scaled[name].value == pytest.approx(one.value, rel=1e-5)


def test_more_memory_measures_what_had_too_little(pool: Path, tmp_path: Path) -> None:
    run = _Bench(pool, tmp_path / "out")
    (table,) = run(methods=("linear", "twin_merging"), memory=2_000)
    assert [m.name for m in table.not_run] == ["twin_merging"]
    assert "Give more with --memory" in table.not_run[0].reason
    again = _Bench(pool, tmp_path / "out")
    (table,) = again(methods=("linear", "twin_merging"), memory=100_000_000)
    assert not table.not_run
    assert "merged" not in {folder for folder, *_ in again.made[0].asked}  # linear is known
    assert table.row("twin_merging").normalised > 0


def test_a_method_that_fails_is_a_row_and_no_crash(pool: Path, tmp_path: Path) -> None:
    run = _Bench(pool, tmp_path / "out")
    broken = [api.merge]

    def merge(recipe: Any, *args: Any, **rest: Any) -> Any:
        if recipe["merge_method"] == "linear":
            raise DataError("This pool has something that 'linear' refuses.")
        return broken[0](recipe, *args, **rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "merge", merge)
        (table,) = run(methods=("linear", "task_arithmetic"))
    assert [m.reason for m in table.not_run] == ["This pool has something that 'linear' refuses."]
    assert table.row("task_arithmetic").normalised > 0
    (table,) = run(methods=("linear", "task_arithmetic"))  # what was wrong is mended
    assert table.not_run == ()
    assert table.row("linear").normalised > 0


def test_a_factor_that_overflows_is_not_chosen(pool: Path, tmp_path: Path) -> None:
    class Bounded(Nearness):
        def outcomes(self, model: Path, *args: Any, **rest: Any) -> Any:
            found = super().outcomes(model, *args, **rest)
            if model.name == "scaled" and self.asked.count(self.asked[-1]) > 1:
                raise DataError("The model gives NaN.")
            return found

    chosen = Settings(methods=("task_arithmetic",), points=3, threads=1)
    (table,) = bench(str(pool), tmp_path / "out", chosen, evaluators=Bounded)
    assert table.row("task_arithmetic").chosen == (0.167,)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"seeds": 0}, "--seeds is 0; it has to be 1 or more"),
        ({"first_seed": -1}, "--first-seed is -1; it has to be 0 or more"),
        ({"points": 0}, "--points is 0"),
        ({"limit": 0}, "--limit is 0"),
        ({"experts": (1,)}, "--experts names 1; a pool has 2 experts or more"),
        ({"methods": ("tise",)}, "no method or codec 'tise' to try. Did you mean 'ties'"),
    ],
)
def test_wrong_settings(pool: Path, tmp_path: Path, settings: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        _Bench(pool, tmp_path / "out")(**settings)
    assert not (tmp_path / "out" / "records.jsonl").exists()


def test_a_pool_that_cannot_be_measured(tmp_path: Path) -> None:
    alone = write_quick_pool(tmp_path / "alone", ["cats"])
    with pytest.raises(InputError, match=r"has one expert \(cats\); there is nothing to combine"):
        _Bench(alone, tmp_path / "out")()
    idle = write_quick_pool(tmp_path / "idle")
    content = YAML(typ="safe").load((idle / "pool.yaml").read_text())
    del content["tasks"]["fish"]
    (idle / "pool.yaml").write_text(json.dumps(content))
    with pytest.raises(InputError, match="no task belongs to the expert 'fish'"):
        _Bench(idle, tmp_path / "out")()
    with pytest.raises(InputError, match=r"There is no pool '.*nowhere': neither a file or folder"):
        _Bench(tmp_path / "nowhere", tmp_path / "out")()
    gone = write_quick_pool(tmp_path / "gone")
    (gone / "experts/dogs").rename(gone / "experts/dags")
    with pytest.raises(InputError, match="experts/dogs"):
        _Bench(gone, tmp_path / "out")()


def test_folders_that_are_not_ours(done: tuple[_Bench, Table], tmp_path: Path) -> None:
    run, _ = done
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "one.txt").touch()
    with pytest.raises(OutputError, match=r"holds 'one.txt' and no records.jsonl"):
        _Bench(run.pool, tmp_path / "letters")()
    with pytest.raises(OutputError, match=r"holds no records.jsonl; run the bench without --show"):
        shown(tmp_path / "new")
    other = write_quick_pool(tmp_path / "other", ["dogs", "cats"])
    with pytest.raises(OutputError, match=r"the bench of the pool 'animals' with other models"):
        _Bench(other, run.out)()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "records.jsonl").write_text('{"format": 0}\n')
    with pytest.raises(FormatError, match=r"records.jsonl:1: this is no record"):
        Records(tmp_path / "old")
