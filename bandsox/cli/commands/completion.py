"""``bandsox completion``: what a shell needs to complete command lines."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from bandsox.cli.command import Command


@click.command(
    cls=Command,
    examples=(
        ('eval "$(bandsox completion bash)"', "in ~/.bashrc; needs bash 4.4 or later"),
        ('eval "$(bandsox completion zsh)"', "in ~/.zshrc"),
        ("bandsox completion fish > ~/.config/fish/completions/bandsox.fish", "for fish"),
    ),
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    It completes commands, options, and the names of VMs and images.
    """
    from bandsox.cli.app import app

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(app, {}, "bandsox", "_BANDSOX_COMPLETE").source())
