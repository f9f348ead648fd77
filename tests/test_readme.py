"""The README's table of settings is what the code says."""

from pathlib import Path

import pytest

from deployments import reference

README = Path(__file__).parent.parent / "README.md"


def test_the_table_of_settings_is_the_configurations_own() -> None:
    shown = reference.shown_in(README.read_text(encoding="utf-8"))
    assert shown == reference.table(), "run `python -m deployments.reference README.md`"


def test_the_table_is_written_between_the_marks_and_nothing_else_changes(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"before\n{reference.BEGIN}old{reference.END}\nafter", encoding="utf-8")
    reference.main([str(document)])
    expected = f"before\n{reference.BEGIN}{reference.table()}{reference.END}\nafter"
    assert document.read_text(encoding="utf-8") == expected


def test_a_document_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="settings"):
        reference.shown_in("nothing here")
