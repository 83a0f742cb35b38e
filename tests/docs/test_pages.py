"""The pages are whole: generated ones are fresh, tables name all there is, links lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import typer

import cermet
from cermet.cli.app import app
from cermet.core.codec import all_codecs
from cermet.core.registry import all_factor_methods, all_methods, all_transforms
from cermet.recipes.schema import Recipe

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TOP = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def written(generate: ModuleType, tmp_path: Path) -> Path:
    folder = tmp_path / "methods"
    assert generate.main([], folder) == 0
    return folder


def test_the_pages_of_this_repository_are_fresh(generate: ModuleType) -> None:
    assert generate.main(["--check"]) == 0


def test_there_is_a_page_for_each_method_and_an_index(written: Path) -> None:
    names = {path.stem for path in written.iterdir()}
    assert names == {*all_methods(), "adapters", "index", "transforms"}
    assert {path.stem for path in (written / "transforms").iterdir()} == set(all_transforms())
    assert {path.stem for path in (written / "adapters").iterdir()} == set(all_factor_methods())


@pytest.mark.parametrize("harm", ["changed", "missing", "left over"])
def test_a_stale_page_fails_the_check_by_name_and_is_mended(
    harm: str,
    generate: ModuleType,
    written: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = written / ("gone.md" if harm == "left over" else "ties.md")
    if harm == "missing":
        page.unlink()
    else:
        page.write_text("# by hand\n")
    capsys.readouterr()
    assert generate.main(["--check"], written) == 1
    assert f"docs/methods/{page.name}" in capsys.readouterr().out
    assert page.exists() == (harm != "missing")
    assert generate.main([], written) == 0
    assert generate.main(["--check"], written) == 0


def test_a_page_shows_every_parameter_with_its_default(written: Path) -> None:
    for name, method in all_methods().items():
        page = (written / f"{name}.md").read_text("utf-8")
        for p in method.parameters.values():
            assert re.search(rf"^\| `{p.name}` \| {p.type_name} \|", page, re.MULTILINE)


def test_there_is_a_page_for_each_codec_that_shows_its_parameters(written: Path) -> None:
    folder = written.parent / "codecs"
    assert {path.stem for path in folder.iterdir()} == set(all_codecs())
    for name, codec in all_codecs().items():
        page = (folder / f"{name}.md").read_text("utf-8")
        for p in codec.parameters.values():
            assert re.search(rf"^\| `{p.name}` \| {p.type_name} \|", page, re.MULTILINE)
        assert ("| 2048 × 2048 |" in page) == (codec.size is not None)


def test_a_stale_page_of_a_codec_fails_the_check(
    generate: ModuleType, written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = written.parent / "codecs" / "bitdelta.md"
    page.write_text("# by hand\n")
    (page.parent / "gone.md").write_text("# by hand\n")
    capsys.readouterr()
    assert generate.main(["--check"], written) == 1
    assert "'docs/codecs/bitdelta.md' differs" in capsys.readouterr().out
    assert generate.main([], written) == 0
    assert generate.main(["--check"], written) == 0


def test_signs_of_markdown_in_a_docstring_are_escaped(generate: ModuleType) -> None:
    assert generate._sentence(["a_b in [0, 1], <c>"]) == r"a\_b in \[0, 1\], \<c\>."


def test_the_command_line_page_has_every_verb_and_option() -> None:
    text = (DOCS / "command-line.md").read_text("utf-8")
    verbs = dict(typer.main.get_command(app).commands)
    for verb, command in list(verbs.items()):
        below = getattr(command, "commands", {})
        verbs |= {f"{verb} {name}": inner for name, inner in below.items()}
    for verb, command in verbs.items():
        mark = "###" if " " in verb else "##"
        part = text.partition(f"\n{mark} cermet {verb}\n")[2].partition(f"\n{mark} ")[0]
        assert part, f"no section for {verb}"
        for option in (o for p in command.params for o in p.opts if o.startswith("--")):
            assert f"`{option}`" in part, f"{verb} {option}"


def test_the_recipes_page_has_every_key() -> None:
    text = (DOCS / "recipes.md").read_text("utf-8")
    for key in Recipe.model_fields:
        assert f"| `{key}` |" in text


def test_the_errors_page_has_every_kind_with_its_code() -> None:
    text = (DOCS / "errors.md").read_text("utf-8")
    kinds = [getattr(cermet, name) for name in cermet.__all__ if name.endswith("Error")]
    for kind in kinds:
        code = "" if kind is cermet.CermetError else f"{kind.exit_code} "
        assert f"| `{kind.__name__}` | {code}|" in text


def test_the_python_page_names_everything_public() -> None:
    text = (DOCS / "python.md").read_text("utf-8")
    others = {n for n in cermet.__all__ if n.endswith("Error")} | {"Merged", "__version__"}
    for name in set(cermet.__all__) - others:
        assert re.search(rf"`(cermet\.)?{name}`|^## .*\b{name}\b", text, re.MULTILINE), name


@pytest.mark.parametrize("page", [*TOP, *sorted(DOCS.rglob("*.md"))], ids=lambda p: p.name)
def test_links_to_files_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
        assert re.match(r"https?://", target) or (page.parent / target).exists(), target


def test_nothing_on_the_pages_belongs_to_one_machine() -> None:
    for page in [*TOP, *DOCS.rglob("*.md"), ROOT / "mkdocs.yml"]:
        assert not re.search(r"/(root|home|work|tmp)/", page.read_text("utf-8")), page


def test_the_site_builds_without_a_warning_and_fetches_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = [path.read_text("utf-8") for path in tmp_path.rglob("*.html")]
    assert len(pages) > len(all_methods())
    for page in pages:
        assert not re.search(r'<(script|link|img)[^>]+(src|href)="?(https?:)?//', page)
    shutil.rmtree(tmp_path)
