"""What every command has: the global options, examples in its help, and a place in a lazily imported table.

Every command line imports this module, so it does without pathlib and dataclasses, which would cost more than it does itself.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import click


class Invocation:
    """What the global options say. Each is accepted before and after a command's name."""

    def __init__(self, *, json: bool = False) -> None:
        self.storage: str | None = None
        self.host: str | None = None
        self.port: int | None = None
        self.json = json
        self.quiet = False
        self.debug = False
        self.color = True


def invocation(context: click.Context) -> Invocation:
    """The global options of the command that runs in `context`."""
    return context.find_root().ensure_object(Invocation)


def _remember(context: click.Context, option: click.Parameter, value: Any) -> None:
    if value is not None and value is not False:
        name = str(option.name)
        setattr(invocation(context), name.removeprefix("no_"), not name.startswith("no_") if value is True else value)


def _global_option(*names: str, **settings: Any) -> click.Option:
    return click.Option(list(names), expose_value=False, callback=_remember, **settings)


GLOBAL_OPTIONS: tuple[click.Parameter, ...] = (
    _global_option(
        "--storage",
        type=click.Path(file_okay=False),
        metavar="DIR",
        help="Where VMs and images are kept. [env: BANDSOX_STORAGE]",
    ),
    _global_option("--host", metavar="NAME", help="The host, or the URL, of a server that has the VMs. [env: BANDSOX_URL]"),
    _global_option("--port", type=click.IntRange(1, 65535), help="The server's port, by default 8000."),
    _global_option("--json", is_flag=True, help="Print the result as JSON on stdout, and errors as JSON on stderr."),
    _global_option("--quiet", "-q", is_flag=True, help="Print nothing but results; of lists only the ids."),
    _global_option("--no-color", is_flag=True, help="Do not colour the output. [env: NO_COLOR]"),
    _global_option("--debug", is_flag=True, help="Show a traceback with an error."),
)


class OutputClosed(Exception):
    """The reader of our output has gone."""


@contextlib.contextmanager
def _noticing_closed_output() -> Iterator[None]:
    """Name a broken pipe before Click makes an exit with status 1 of it."""
    try:
        yield
    except BrokenPipeError as error:
        raise OutputClosed from error


class _Documented(click.Command):
    """A command with the global options and a section of examples."""

    examples: Sequence[tuple[str, str]] = ()

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        own = super().get_params(ctx)
        taken = {name for param in own for name in param.opts}
        return [*own, *(option for option in GLOBAL_OPTIONS if taken.isdisjoint(option.opts))]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        own = [option for option in options if option not in GLOBAL_OPTIONS]
        for title, shown in (("Options", own), ("Global options", [option for option in options if option in GLOBAL_OPTIONS])):
            records = [record for param in shown if (record := param.get_help_record(ctx)) is not None]
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.examples:
            with formatter.section("Examples"):
                for line, purpose in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n{'':>{formatter.current_indent + 4}}{purpose}\n")
        super().format_epilog(ctx, formatter)


class Command(_Documented):
    """A command.

    Parameters
    ----------
    examples: command lines, each with its purpose, for the help.
    """

    def __init__(self, *arguments: Any, examples: Sequence[tuple[str, str]] = (), **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.examples = examples


class ProgramCommand(Command):
    """A command that ends with a program's own command line, as in ``exec [OPTIONS] VM [OPTIONS] [--] PROGRAM [ARGUMENT…]``.

    Options stand before the first positional argument or directly behind it. The program begins at the first word that is not
    an option, or behind ``--``; nothing from there on is looked at.
    """

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        context_settings = {**settings.pop("context_settings", {}), "allow_interspersed_args": False}
        super().__init__(*arguments, context_settings=context_settings, **settings)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Take the options in front, and leave the program's own command line alone."""
        options, words = self._split(ctx, args)
        if len(words) > 1 and words[1].startswith("-") and options[-1:] != ["--"]:
            more, program = self._split(ctx, words[1:])
            options, words = [*options, *more], [words[0], *program]
        options = options[:-1] if options[-1:] == ["--"] else options
        return super().parse_args(ctx, [*options, *(["--"] if words else []), *words])

    def _split(self, ctx: click.Context, args: list[str]) -> tuple[list[str], list[str]]:
        """The leading options of `args` with their values, and the rest."""
        parser = type(self.make_parser(ctx))(ctx)
        for param in self.get_params(ctx):
            if isinstance(param, click.Option):
                param.add_to_parser(parser, ctx)
        _, rest, _ = parser.parse_args(args=list(args))
        return args[: len(args) - len(rest)], rest


class _Group(_Documented, click.Group):
    """A group that explains itself when it is called without a word."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing:
            click.echo(ctx.get_help(), color=ctx.color)
            ctx.exit()
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names; where it names none, the nearest is suggested: of this group, else of any."""
        name = args[0]
        if not name.startswith("-") and not ctx.resilient_parsing and self.get_command(ctx, name) is None:
            root = ctx.find_root().command
            meant = _nearest(name, {each: [f"{ctx.command_path} {each}"] for each in self.list_commands(ctx)})
            if not meant and isinstance(root, LazyGroup):
                meant = _nearest(name, root.paths(ctx.find_root().command_path))
            suggestion = ", ".join(f"`{path}`" for path in meant)
            raise click.UsageError(f"No such command {name!r}." + (f" Did you mean {suggestion}?" if suggestion else ""), ctx)
        return super().resolve_command(ctx, args)


def _nearest(word: str, known: Mapping[str, list[str]]) -> list[str]:
    """What is known by the word that is nearest to one, if any is near."""
    from difflib import get_close_matches

    return [path for near in get_close_matches(word, known, n=1, cutoff=0.7) for path in known[near]]


class CommandGroup(_Group):
    """A group whose commands are in the same module.

    Parameters
    ----------
    examples: command lines, each with its purpose, for the help.
    aliases: other names, which people know from elsewhere, for its commands.
    """

    command_class = Command

    def __init__(
        self, *arguments: Any, examples: Sequence[tuple[str, str]] = (), aliases: Mapping[str, str] | None = None, **settings: Any
    ) -> None:
        super().__init__(*arguments, **settings)
        self.examples = examples
        self.aliases = aliases or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order in which they are defined."""
        return list(self.commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name or alias."""
        return super().get_command(ctx, self.aliases.get(cmd_name, cmd_name))


class Entry(NamedTuple):
    """A command of a `LazyGroup`: where it is, what it is for, and the names of its own commands where it is a group."""

    place: str
    help: str
    commands: tuple[str, ...] = ()


class LazyGroup(_Group):
    """A group that imports a command when it is called.

    Parameters
    ----------
    sections: the commands by name, under the titles they have in the help.
    """

    def __init__(
        self, *arguments: Any, sections: Mapping[str, Mapping[str, Entry]], examples: Sequence[tuple[str, str]] = (), **settings: Any
    ) -> None:
        super().__init__(*arguments, **settings)
        self.sections = sections
        self.entries = {name: entry for entries in sections.values() for name, entry in entries.items()}
        self.examples = examples

    def make_context(self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any) -> click.Context:
        """Read the command line, and print the help where that was asked."""
        with _noticing_closed_output():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        with _noticing_closed_output():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands, in the order of their sections."""
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, imported now."""
        if cmd_name not in self.entries:
            return None
        module, _, attribute = self.entries[cmd_name].place.partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the table says of the commands, which stay unimported."""
        for title, entries in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(name, entry.help) for name, entry in entries.items()], col_max=14)

    def paths(self, program: str) -> dict[str, list[str]]:
        """For each name of a command, of this group or one within: how it is called."""
        known = {name: [f"{program} {name}"] for name in self.entries}
        for outer, entry in self.entries.items():
            for inner in entry.commands:
                known.setdefault(inner, []).append(f"{program} {outer} {inner}")
        return known
