"""What the documents say of settings and modules is what the code says."""

from pathlib import Path

import pytest

from deployments import reference

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("page", "part"), [("deployments/SETTINGS.md", "settings"), ("deployments/README.md", "modules")]
)
def test_what_is_made_from_the_code_is_as_the_code_is(page: str, part: str) -> None:
    shown = reference.shown_in((ROOT / page).read_text(encoding="utf-8"), part)
    assert shown == reference.PARTS[part](), f"run `python -m deployments.reference {page}`"


def test_each_module_says_what_it_is() -> None:
    silent = [line for line in reference.modules().splitlines() if line.endswith("|  |")]
    assert not silent


def test_a_part_is_written_between_its_marks_and_nothing_else_changes(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    begins, ends = reference.marks("settings")
    document.write_text(f"before\n{begins}old{ends}\nafter", encoding="utf-8")
    reference.main([str(document)])
    expected = f"before\n{begins}{reference.settings()}{ends}\nafter"
    assert document.read_text(encoding="utf-8") == expected


def test_a_document_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="settings"):
        reference.renewed("nothing here")
