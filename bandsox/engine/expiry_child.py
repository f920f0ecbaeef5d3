"""The program that does what a machine's deadline asks for: ``python -m bandsox.engine.expiry_child STORAGE_DIR VM_ID``.

Its exit status is 0 when that was done.
"""

from __future__ import annotations

import asyncio
import sys

from bandsox.engine import deadlines
from bandsox.engine.engine import Engine


def main() -> None:
    """Do it, if the machine's time is over."""
    storage_dir, vm_id = sys.argv[1:]
    sys.exit(0 if asyncio.run(_expire(Engine(storage_dir), vm_id)) else 1)


async def _expire(engine: Engine, vm_id: str) -> bool:
    try:
        return await deadlines.expire(engine, vm_id)
    finally:
        engine.close()


if __name__ == "__main__":
    main()
