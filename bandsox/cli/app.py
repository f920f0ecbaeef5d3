"""The root command, and the table of all commands."""

from __future__ import annotations

import click

from bandsox import __version__
from bandsox.cli.command import Entry, LazyGroup, invocation

_COMMANDS = "bandsox.cli.commands"

SECTIONS = {
    "Run code": {
        "run": Entry(f"{_COMMANDS}.run:run", "Run a command in a new VM, and delete the VM afterwards."),
        "create": Entry(f"{_COMMANDS}.create:create", "Create and start a VM."),
        "exec": Entry(f"{_COMMANDS}.exec:execute", "Run a command in a running VM."),
        "terminal": Entry(f"{_COMMANDS}.terminal:terminal", "Open a terminal in a VM, or return to one."),
        "cp": Entry(f"{_COMMANDS}.cp:copy", "Copy files between this host and a VM."),
    },
    "VMs": {
        "vm": Entry(
            f"{_COMMANDS}.vm:vm",
            "List, start, stop, pause, resume, save, fork, rewind, rename and delete VMs.",
            (
                *(
                    "list",
                    "ls",
                    "start",
                    "stop",
                    "pause",
                    "hibernate",
                    "resume",
                    "save",
                    "fork",
                    "checkpoint",
                    "checkpoints",
                    "rewind",
                    "diff",
                ),
                *("delete", "rm", "rename", "metadata", "deadlines", "expose", "ports", "balloon", "mmds"),
            ),
        ),
        "snapshot": Entry(
            f"{_COMMANDS}.snapshot:snapshot",
            "List, restore, inspect, rename, compress, carry and delete snapshots of VMs.",
            (
                *("list", "ls", "restore", "inspect", "rename", "metadata", "delete", "rm"),
                *("compress", "export", "import", "retention", "prune"),
            ),
        ),
        "network": Entry(
            f"{_COMMANDS}.network:network",
            "Say where VMs may go in their network, and see where they went.",
            ("policy", "log", "learned", "stats", "secret"),
        ),
        "template": Entry(
            f"{_COMMANDS}.template:template",
            "Make, list and remove templates: VMs that were set up once, to start others from.",
            ("make", "list", "ls", "remove", "rm", "prune"),
        ),
        "inspect": Entry(f"{_COMMANDS}.inspect:inspect", "Show all that is known of a VM or an image."),
        "logs": Entry(f"{_COMMANDS}.logs:logs", "Show what a VM has printed on its console."),
        "stats": Entry(f"{_COMMANDS}.stats:stats", "Show how busy VMs are."),
        "ps": Entry(f"{_COMMANDS}.stats:processes", "Show the processes of a VM."),
    },
    "Images": {
        "image": Entry(
            f"{_COMMANDS}.image:image",
            "Pull, build, list, tag, carry and remove images.",
            ("pull", "build", "list", "ls", "inspect", "history", "tag", "save", "load", "delete", "rm", "prune", "import"),
        ),
    },
    "Other hosts": {
        "serve": Entry(f"{_COMMANDS}.serve:serve", "Serve VMs over HTTP and WebSocket."),
        "mcp": Entry(f"{_COMMANDS}.mcp:mcp", "Give an AI agent tools to use VMs (Model Context Protocol)."),
        "auth": Entry(
            f"{_COMMANDS}.auth:auth",
            "Say who may use the server: a password for people, keys for programs.",
            (
                *("login", "logout", "init", "set-password", "create-key", "edit-key", "list-keys", "revoke-key"),
                *("list-sessions", "end-session", "audit"),
            ),
        ),
        "webhook": Entry(
            f"{_COMMANDS}.webhook:webhook",
            "Say who is told of changes over HTTP, by a server that runs.",
            ("create", "list", "ls", "edit", "delete", "rm", "log"),
        ),
    },
    "This host": {
        "init": Entry(
            f"{_COMMANDS}.init:init",
            "Install the guest kernel, the default image, Firecracker where this host can run it, and CNI plugins that a network of"
            " root's lacks.",
        ),
        "doctor": Entry(f"{_COMMANDS}.doctor:doctor", "Say what this host can do, and how to mend what is missing."),
        "cleanup": Entry(f"{_COMMANDS}.cleanup:cleanup", "Remove what processes that were killed have left behind."),
        "completion": Entry(f"{_COMMANDS}.completion:completion", "Print the completion script of a shell."),
    },
}


def _print_version(context: click.Context, option: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        click.echo(f'{{"version": "{__version__}"}}' if invocation(context).json else f"bandsox {__version__}")
        context.exit()


@click.group(
    cls=LazyGroup,
    sections=SECTIONS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    examples=(
        ("bandsox run python:3-alpine -- python3 -c 'print(6 * 7)'", "run a command in a fresh VM"),
        ("bandsox run -it alpine", "look around in one"),
        ("bandsox create python:3-alpine --name dev --mem 512", "make a VM that stays"),
        ("bandsox terminal dev", "and work in it"),
    ),
)
@click.option("--version", is_flag=True, expose_value=False, callback=_print_version, help="Show the version and exit.")
def app() -> None:
    """Run any OCI image as a real virtual machine: podman for microVMs.

    `bandsox COMMAND --help` explains each command.
    """
