"""``bandsox webhook``: who is told of changes over HTTP, by a server or by those of a storage directory."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import click

from bandsox.cli.administration import webhooks
from bandsox.cli.command import CommandGroup, invocation
from bandsox.cli.output import age, print_json, print_table

if TYPE_CHECKING:
    from bandsox.models import WebhookInfo

_EXAMPLES = (
    ("bandsox webhook create https://example.org/hook --event 'vm.*'", "tell it what happens to VMs; prints the key of the signatures"),
    ("bandsox webhook log ID", "what became of it"),
)
_EVENTS = click.option("--event", "events", multiple=True, metavar="TYPE", help="Such as vm.created, vm.* or *, which is all.")


@click.group(cls=CommandGroup, examples=_EXAMPLES, aliases={"ls": "list", "rm": "delete"})
def webhook() -> None:
    """Say who is told of changes over HTTP, by a server that runs."""


@webhook.command()
@click.argument("url")
@_EVENTS
@click.pass_context
def create(context: click.Context, url: str, events: tuple[str, ...]) -> None:
    """Have an address told of what happens from now on, and print the key of its signatures: the only time it is shown."""
    state = invocation(context)
    with webhooks(state) as told:
        hook = told.create(url, events or ("*",))
    if state.json:
        print_json({"id": hook.id, "url": hook.url, "events": hook.events, "secret": hook.secret})
        return
    if not state.quiet:
        click.echo(f"the webhook {hook.id}, whose secret is shown only now:", err=True)
    click.echo(hook.secret)


@webhook.command("list")
@click.pass_context
def list_webhooks(context: click.Context) -> None:
    """List the webhooks, without their secrets."""
    state = invocation(context)
    with webhooks(state) as told:
        hooks = told.list()
    if state.json:
        print_json([dataclasses.asdict(hook) for hook in hooks])
        return
    if state.quiet:
        for hook in hooks:
            click.echo(hook.id)
        return
    rows = [(hook.id, hook.url, ",".join(hook.events), _state(hook)) for hook in hooks]
    print_table(("ID", "URL", "EVENTS", "STATE"), rows, state)


@webhook.command()
@click.argument("webhook_id", metavar="ID")
@click.option("--url", help="Another address.")
@_EVENTS
@click.option("--enable/--disable", "enabled", default=None, help="Tell it again of what happens from now on, or no more.")
@click.pass_context
def edit(context: click.Context, webhook_id: str, url: str | None, events: tuple[str, ...], enabled: bool | None) -> None:
    """Change a webhook; what is not named stays."""
    with webhooks(invocation(context)) as told:
        told.edit(webhook_id, url=url, events=events or None, enabled=enabled)


@webhook.command()
@click.argument("webhook_id", metavar="ID")
@click.pass_context
def delete(context: click.Context, webhook_id: str) -> None:
    """Tell it no more."""
    with webhooks(invocation(context)) as told:
        told.delete(webhook_id)


@webhook.command()
@click.argument("webhook_id", metavar="ID")
@click.pass_context
def log(context: click.Context, webhook_id: str) -> None:
    """Show what became of the last attempts, the newest first."""
    state = invocation(context)
    with webhooks(state) as told:
        found = told.deliveries(webhook_id)
    if state.json:
        print_json([dataclasses.asdict(each) for each in found])
        return
    rows = [
        (age(each.at), each.message, each.kind, str(each.attempt), each.outcome, str(each.status or each.error or "-"), f"{each.ms} ms")
        for each in found
    ]
    print_table(("WHEN", "MESSAGE", "EVENT", "ATTEMPT", "OUTCOME", "ANSWER", "TOOK"), rows, state)


def _state(hook: WebhookInfo) -> str:
    if not hook.enabled:
        return "off"
    return "on" if hook.failing_since is None else "failing"
