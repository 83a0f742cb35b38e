"""What a README.md states is read in one form; whatever else it holds, nothing breaks."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cermet.checkpoints.front_matter import FrontMatter, is_repository, read_front_matter


def _read(folder: Path, content: str | bytes) -> FrontMatter:
    raw = content.encode() if isinstance(content, str) else content
    (folder / "README.md").write_bytes(raw)
    return read_front_matter(folder)


def test_a_card_of_the_hub(tmp_path: Path) -> None:
    found = _read(
        tmp_path,
        "---\nlicense: Other\nlicense_name: llama3\nlicense_link: LICENSE\nlanguage: en\n"
        "base_model: [org/a, ./b, org/a]\ntags: [x, y]\npipeline_tag: text-generation\n"
        "library_name: transformers\nmodel-index:\n- name: z\n---\n# Title\nlicense: mit\n",
    )
    assert found == FrontMatter(
        license=("other",), license_name="llama3", license_link="LICENSE", language=("en",),
        base_model=("org/a",), tags=("x", "y"), pipeline_tag="text-generation",
        library_name="transformers",
    )  # fmt: skip


@pytest.mark.parametrize("text", ["", "# A model\n", "---\n---\n", "---\n\n---\n", "\n\nmit\n"])
def test_a_card_without_front_matter_states_nothing(text: str, tmp_path: Path) -> None:
    assert _read(tmp_path, text) == FrontMatter()


def test_no_card_states_nothing(tmp_path: Path) -> None:
    assert read_front_matter(tmp_path) == FrontMatter()
    (tmp_path / "README.md").mkdir()
    assert read_front_matter(tmp_path) == FrontMatter()
    assert read_front_matter(tmp_path / "x.safetensors") == FrontMatter()


MALFORMED = {
    "list not closed": "license: [mit\n",
    "not a mapping": "- license\n- mit\n",
    "text": "mit\n",
    "a tag that builds things": "license: !!python/object/apply:os.system ['true']\n",
    "unknown tag": "license: !mine mit\n",
    "deep": "license: " + "[" * 100_000 + "\n",
    "tab": "license:\n\t- mit\n",
    "anchor that contains itself": "&a [*a]\n",
    "anchor that is not there": "license: *mit\n",
    "date that is none": "license: 2024-13-45\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_front_matter_is_a_problem_and_no_error(name: str, tmp_path: Path) -> None:
    found = _read(tmp_path, f"---\n{MALFORMED[name]}---\n# T\n")
    assert found.license == ()
    assert found.problem is not None
    assert str(tmp_path / "README.md") in found.problem


WRONG = {
    "number": ("license: 3", ()),
    "mapping": ("license: {a: b}", ()),
    "empty": ("license: ''", ()),
    "lines": ('license: "mit\\nmit"', ()),
    "control characters": ('license: "\\e[31mmit"', ()),
    "very long": (f"license: {'m' * 5000}", ()),
    "list of much": ("license: [mit, 3, null, [mit], apache-2.0]", ("mit", "apache-2.0")),
    "too many": (f"license: [{', '.join(f'l{i}' for i in range(500))}]", None),
}


@pytest.mark.parametrize("name", WRONG)
def test_values_that_are_no_text_are_left_out_by_name(name: str, tmp_path: Path) -> None:
    line, kept = WRONG[name]
    found = _read(tmp_path, f"---\n{line}\nlanguage: en\n---\n")
    assert found.problem is not None
    assert "'license'" in found.problem
    assert found.language == ("en",)
    assert len(found.license) <= 200
    assert kept is None or found.license == kept


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.text(max_size=200), st.binary(max_size=200)))
def test_whatever_stands_there_it_is_read(content: str | bytes) -> None:
    raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    with tempfile.TemporaryDirectory() as folder:
        for text in (raw, b"---\n" + raw + b"\n---\n", b"---\nlicense: " + raw + b"\n---\n"):
            found = _read(Path(folder), text)
            values = [*found.license, *found.tags, *found.language, found.license_name or "x"]
            assert all(v.isprintable() and 0 < len(v) <= 300 for v in values)


_NAMES = st.from_regex(r"[a-z][a-z0-9.-]{0,20}", fullmatch=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(_NAMES, min_size=1, max_size=4, unique=True))
def test_what_the_hubs_own_library_writes_is_read_back(names: list[str]) -> None:
    from huggingface_hub import ModelCardData

    data = ModelCardData(license=names[0], tags=list(names), language=list(names))
    with tempfile.TemporaryDirectory() as folder:
        found = _read(Path(folder), f"---\n{data.to_yaml()}\n---\n")
    assert found.license == (names[0],)
    assert found.tags == found.language == tuple(names)
    assert found.problem is None


@pytest.mark.parametrize(
    ("name", "known"),
    [("org/a", True), ("a", False), ("./a", False), ("/home/a", False), ("a/b/c", False),
     ("../a", False), ("a/b.git", False), ("C:/a", False), ("", False)],
)  # fmt: skip
def test_what_is_the_name_of_a_repository(name: str, known: bool) -> None:
    assert is_repository(name) is known
