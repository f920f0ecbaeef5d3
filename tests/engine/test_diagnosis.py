"""What a console tells of a machine that did not come up, whatever is printed on it."""

from __future__ import annotations

import pytest

from bandsox.engine.diagnosis import boot_failure
from bandsox.vmm.console import CAPACITY


@pytest.mark.parametrize(
    "line",
    [
        "EXT4-fs (",
        "squashfs",
        "Cannot allocate memory",
        "bandsox-agent: fatal: root: ",
        "bandsox-agent: stage: ",
        "\r",
        "\n",
        "\x1b[2J",
        "\xff",
    ],
)
def test_no_console_is_slow_to_search_or_harmful_to_print(line: str) -> None:
    """A search that tries every beginning with every end would take minutes here."""
    console = (line * (CAPACITY // len(line))).encode("latin-1")
    error = boot_failure("it did not come up", "", lambda: console, "\x1b[2J" * 1000)
    assert len(str(error)) < 20_000
    for text in (str(error), error.console, error.stage, error.cause or ""):
        assert all(part.isprintable() for part in text.split("\n"))


def test_a_stage_is_one_of_the_agents() -> None:
    console = b"bandsox-agent: stage: overlay\nbandsox-agent: stage: nonsense\nbandsox-agent: fatal: nonsense: x\n"
    assert boot_failure("it did not come up", "", lambda: console, "").stage == "overlay"


def test_the_agents_reason_is_the_cause_where_no_known_message_is() -> None:
    console = b"bandsox-agent: stage: root\r\nbandsox-agent: fatal: root: no /dev/vda: timed out\r\n"
    error = boot_failure("it did not come up", "the guest sent nonsense", lambda: console, "")
    assert (error.stage, error.cause) == ("root", "no /dev/vda: timed out")


def test_one_that_goes_on_need_not_print_anything() -> None:
    error = boot_failure("its agent was not there", "nobody accepts connections", lambda: b"", "", resumed=True)
    assert (error.stage, error.cause) == ("resume", "nobody accepts connections")
    error = boot_failure("its agent was not there", "nobody accepts connections", lambda: b"", "")
    assert error.stage == "spawn"
    assert "did not run its kernel" in str(error.cause)


def test_what_the_host_noticed_is_the_cause_where_nothing_else_is() -> None:
    assert boot_failure("it came up", "nonsense", lambda: b"bandsox-agent: stage: ready\n", "").cause == "nonsense"
