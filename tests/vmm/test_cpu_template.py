"""CPU templates: a name, a text, or a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from bandsox.errors import InvalidRequest
from bandsox.vmm import cpu_template

CUSTOM = '{"msr_modifiers": [{"addr": "0x10a", "bitmap": "0b1"}]}'


def test_a_static_template_is_its_name() -> None:
    assert cpu_template.load("T2A") == "T2A"


def test_a_file_is_its_content_and_so_is_a_text(tmp_path: Path) -> None:
    (tmp_path / "template.json").write_text(CUSTOM)
    assert cpu_template.load(str(tmp_path / "template.json")) == CUSTOM
    assert cpu_template.load(CUSTOM) == CUSTOM


@pytest.mark.parametrize("text", ["{", '{"msr_modifiers": 1}', '{"other": []}', "[]", "\0\1\2", "{}" + " " * 50_000])
def test_what_is_no_template_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "template.json").write_text(text)
    with pytest.raises(InvalidRequest):
        cpu_template.load(str(tmp_path / "template.json"))


def test_a_missing_file_is_refused_with_what_else_there_is() -> None:
    with pytest.raises(InvalidRequest, match="T2CL"):
        cpu_template.load("/no/such/template")
