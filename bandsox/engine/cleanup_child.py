"""The program that cleans up behind a process which was killed: ``python -m bandsox.engine.cleanup_child STORAGE_DIR VM_ID``.

The machine is the one that was to end with that process. It is named, because the lock that tells of its owner is held by whoever
runs this.
"""

from __future__ import annotations

import asyncio
import sys

from bandsox.engine.engine import Engine


def main() -> None:
    """Remove the machine, and what else belonged to processes that are no more."""
    storage_dir, vm_id = sys.argv[1:]
    asyncio.run(_clean(Engine(storage_dir), vm_id))


async def _clean(engine: Engine, vm_id: str) -> None:
    try:
        await engine.delete(vm_id)
        await engine.cleanup()
    finally:
        engine.close()


if __name__ == "__main__":
    main()
