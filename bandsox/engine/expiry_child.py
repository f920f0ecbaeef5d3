"""The program that does what a machine's deadline asks for: ``python -m bandsox.engine.expiry_child STORAGE_DIR VM_ID``."""

from __future__ import annotations

import asyncio
import sys

from bandsox.engine import deadlines
from bandsox.engine.engine import Engine


def main() -> None:
    """Do it, if the machine's time is over."""
    storage_dir, vm_id = sys.argv[1:]
    asyncio.run(_expire(Engine(storage_dir), vm_id))


async def _expire(engine: Engine, vm_id: str) -> None:
    try:
        await deadlines.expire(engine, vm_id)
    finally:
        engine.close()


if __name__ == "__main__":
    main()
