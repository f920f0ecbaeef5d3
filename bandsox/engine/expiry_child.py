"""The program that does what a deadline asks for: ``python -m bandsox.engine.expiry_child STORAGE_DIR VM_ID``, or ``… snapshots``.

Its exit status is 0 when that was done.
"""

from __future__ import annotations

import asyncio
import sys

from bandsox.engine import deadlines, retention
from bandsox.engine.engine import Engine
from bandsox.engine.housekeeper import SNAPSHOTS


def main() -> None:
    """Do it, if that time is over."""
    storage_dir, vm_id = sys.argv[1:]
    sys.exit(0 if asyncio.run(_expire(Engine(storage_dir), vm_id)) else 1)


async def _expire(engine: Engine, vm_id: str) -> bool:
    try:
        if vm_id == SNAPSHOTS:
            await retention.prune(engine)
            return not (await asyncio.to_thread(retention.due, engine.layout.root)).now
        return await deadlines.expire(engine, vm_id)
    finally:
        engine.close()


if __name__ == "__main__":
    main()
