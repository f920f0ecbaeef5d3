"""Completing names of VMs, snapshots and images at the shell's prompt, quickly: read straight from the registry, which stays as it is.

A storage directory that does not exist has no names; nothing is created in order to find that out.
"""

from __future__ import annotations

from pathlib import Path

import click

from bandsox.cli.command import invocation

_LIMIT = 200
_SNAPSHOTS = "SELECT name FROM snapshots WHERE id NOT IN (SELECT snapshot_id FROM belongings) ORDER BY created_at DESC"
_TEMPLATES = "SELECT substr(owner, 1, 16) FROM belongings WHERE purpose = 'template'"


def complete_vm(context: click.Context, _: click.Parameter, typed: str) -> list[str]:
    """The names of VMs that begin with `typed`."""
    return _beginning(context, "SELECT name FROM vms ORDER BY created_at DESC", typed)


def complete_snapshot(context: click.Context, _: click.Parameter, typed: str) -> list[str]:
    """The names of snapshots that begin with `typed`."""
    return _beginning(context, _SNAPSHOTS, typed)


def complete_template(context: click.Context, _: click.Parameter, typed: str) -> list[str]:
    """The ids of templates that begin with `typed`."""
    return _beginning(context, _TEMPLATES, typed)


def complete_image(context: click.Context, _: click.Parameter, typed: str) -> list[str]:
    """The names of images that begin with `typed`, as people write them."""
    names = _beginning(context, "SELECT reference FROM image_references ORDER BY reference", "")
    familiar = [name.removeprefix("docker.io/").removeprefix("library/") for name in names]
    return [name for name in familiar if name.startswith(typed)]


def complete_vm_path(context: click.Context, parameter: click.Parameter, typed: str) -> list[click.shell_completion.CompletionItem]:
    """The names of VMs as ``VM:/``, or files of this host."""
    from click.shell_completion import CompletionItem

    machines = [CompletionItem(f"{name}:/") for name in complete_vm(context, parameter, typed)]
    return machines or [CompletionItem(typed, type="file")]


def _beginning(context: click.Context, query: str, typed: str) -> list[str]:
    import sqlite3

    from bandsox.settings import default_storage_dir

    path = Path(invocation(context).storage or default_storage_dir()) / "bandsox.db"
    if not path.is_file():
        return []
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)
        try:
            names = [str(row[0]) for row in connection.execute(query)]
        finally:
            connection.close()
    except sqlite3.Error:  # a registry of another version, or one that is busy: there is nothing to offer
        return []
    return [name for name in names if name.startswith(typed) and name.isprintable()][:_LIMIT]
