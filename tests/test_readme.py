"""The program in the README does what the README says, word for word."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from bandsox import BandSox

README = Path(__file__).parent.parent / "README.md"


def test_the_first_program_runs_as_it_stands(bandsox: BandSox, storage: Path) -> None:
    program = re.search(r"```python\n(.+?)```", README.read_text(), re.DOTALL)
    assert program is not None
    before = {info["id"] for info in bandsox.list_vms()}
    done = subprocess.run([sys.executable, "-c", program[1]], capture_output=True, text=True, check=False)
    made = [info for info in bandsox.list_vms() if info["id"] not in before]
    for info in made:
        bandsox.delete_vm(info["id"])
    assert done.stdout.split("\n")[:3] == ["Hello from VM!", "", "Hello World"], done.stderr
    assert [(info["image"], info["status"]) for info in made] == [("python:3-alpine", "stopped")]
