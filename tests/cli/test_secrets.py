"""Secrets on the command line: values come from variables and files, and show nowhere."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from bandsox.cli.secret import secrets_of, value_from
from bandsox.models import Secret

VALUE = "a value of the test"


def test_a_value_comes_from_the_variable_of_its_name_from_another_one_or_from_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KEY", VALUE)
    (tmp_path / "key").write_text(f"{VALUE}\n")
    plain = Secret(VALUE, ("api.example.com",))
    assert secrets_of(["KEY@api.example.com", "OTHER=KEY@api.example.com", f"FILE={tmp_path}/key@api.example.com"]) == {
        "KEY": plain,
        "OTHER": plain,
        "FILE": plain,
    }


def test_hosts_are_a_list_and_flags_say_where_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", VALUE)
    found = secrets_of(["KEY@api.example.com:8443,*.example.org+query+http"])
    assert found == {"KEY": Secret(VALUE, ("api.example.com:8443", "*.example.org"), query=True, plain_http=True)}


@pytest.mark.parametrize("setting", ["KEY", "KEY=", "=KEY@host", "KEY@", "KEY@host+header", "MISSING@host", "KEY=/no/such/file@host"])
def test_what_cannot_be_read_is_refused_without_a_value(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv("KEY", VALUE)
    monkeypatch.delenv("MISSING", raising=False)
    with pytest.raises(click.BadParameter) as failure:
        secrets_of([setting])
    assert VALUE not in failure.value.message


def test_a_file_of_any_size_is_read_to_a_bound(tmp_path: Path) -> None:
    (tmp_path / "large").write_text("x" * (1 << 20))
    assert len(value_from(f"{tmp_path}/large")) < 1 << 17
