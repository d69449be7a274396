"""``ullage``: the command line, and the only place that knows both the live and the simulated side.

Sub-commands load when they are called, so that ``ullage --help`` answers at once and a base install runs what it
can. Every expected failure is one message: 1 for failures, 2 for wrong usage (an input that
is not there is one), 130 for Ctrl-C, 143 for SIGTERM, which ends a command as Ctrl-C does, 141 where
nobody reads on; ``--debug`` shows the traceback.
"""

from __future__ import annotations

import difflib
import importlib
import io
import json
import math
import os
import signal
import sys
from collections.abc import Callable, Iterable
from importlib import metadata
from types import FrameType
from typing import Any

import click
from click.shell_completion import CompletionItem

from placement.errors import ConfigError, PlacementError
from scheduler.cli.examples import epilog
from scheduler.cli.option_needs import NEEDS, Held

SECTIONS = {
    "Simulate": {
        "compare": ("simulator.cli.simulate", "Replay traces with several strategies and report the difference."),
        "simulate": ("simulator.cli.simulate", "Replay a trace with one strategy."),
        "strategies": ("simulator.cli.simulate", "List, describe and show strategies."),
        "trace": ("simulator.cli.trace", "Make, check, convert and look at traces."),
        "reproduce": ("simulator.cli.reproduce", "Repeat published results and hold ours against them."),
    },
    "Learn": {
        "record": ("scheduler.cli.record", "Record a trace of your cluster: pods, nodes and their usage."),
        "train": (
            "simulator.cli.learn",
            "Learn from a trace what pods will use and how long they live: models with a card.",
        ),
        "evaluate": ("simulator.cli.learn", "Accuracy of a model beside its rivals and the oracle."),
        "rightsize": ("scheduler.cli.rightsize", "What each workload should ask for, by prediction."),
    },
    "Run": {
        "doctor": ("scheduler.cli.doctor", "Find the traps in a scheduler configuration or a live set-up."),
        "serve": ("scheduler.cli.serve", "Answer kube-scheduler as its extender; in shadow unless told."),
        "shadow": ("scheduler.cli.shadow", "What shadow mode would have changed, and its worth."),
        "explain": ("scheduler.cli.explain", "Why a pod went where it went."),
        "decisions": ("scheduler.cli.decisions", "List and export recorded decisions."),
        "bundle": ("scheduler.cli.bundle", "Pack log, configuration and versions into one file."),
    },
    "Plan": {
        "plan": ("simulator.cli.plan", "Optimal plans with a stated bound: rescue, batch, consolidate, purchase."),
        "snapshot": ("simulator.cli.plan", "Save a cluster's state to a file."),
        "sweep": ("scheduler.cli.sweep", "Lift stale scheduling gates and clear stale nominations of ours."),
    },
}
"""Heading of the help → name, as in the module → (module, one line of help)."""

COMMANDS = {name: command for section in SECTIONS.values() for name, command in section.items()}

EXTRAS = {
    "lightgbm": "learn",
    "ortools": "plan",
    "polars": "sim",
    "pyarrow": "sim",
    "zstandard": "sim",
    "numba": "fast",
}
"""Module → the extra that brings it."""


class LazyGroup(click.Group):
    """Loads a sub-command's module only when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, "completion", "version"]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _ = COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), cmd_name)
        if cmd_name in ("plan", "record", "snapshot"):
            _give_cluster(command)
        assert isinstance(command, click.Command), f"{module}.{cmd_name} is a command"
        _finish(command, cmd_name)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # click would call it a failure
            with open(os.devnull, "w", encoding="utf-8") as nowhere:
                os.dup2(nowhere.fileno(), 1)  # for what is left to be written when Python ends
            raise click.exceptions.Exit(128 + signal.SIGPIPE) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections = {title: [(name, told) for name, (_, told) in part.items()] for title, part in SECTIONS.items()}
        sections["Shell"] = [("completion", "Print shell completion."), ("version", "Print versions.")]
        width = max(len(name) for rows in sections.values() for name, _ in rows)
        for title, rows in sections.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), told) for name, told in rows])


def _tracer() -> Callable[[Any], Any]:
    """What makes a trace of a recording of the live side."""
    from simulator.traces.recorded import trace_of_recording

    return trace_of_recording


def _give_cluster(command: click.Command) -> None:
    """Traces and planning are the simulator's, the cluster is the live side's: hand each other over, and what acts on a
    plan."""
    from scheduler.cli.cluster import Live
    from scheduler.cli.plan import COMMANDS as ON_PLANS

    command.context_settings["obj"] = Live(_tracer)
    if isinstance(command, click.Group):
        for extra in ON_PLANS:
            command.add_command(extra)


def _finish(command: click.Command, path: str) -> None:
    """What holds for every command, however deep; ``path`` is its name after those of its groups.

    Numbers of options are finite (click takes ``nan`` and ``inf``, ``nan`` even where it states a range), options that
    would change nothing are refused, help shows defaults and ends with examples, names are completed, and a group lists
    its commands by their whole first paragraph (click cuts it short).
    """
    command.epilog = epilog(path)
    if path in NEEDS and command.callback is not None and not isinstance(command.callback, Held):
        command.callback = Held(command.callback, NEEDS[path])
    for option in command.params:
        if isinstance(option.type, click.types.FloatParamType) and option.callback is None:
            option.callback = _finite
        if isinstance(option, click.Option):
            option.show_default = option.default != ""
        if option.type is click.STRING:
            option.type = NAMES.get(str(option.name), option.type)
    if isinstance(command, click.Group):
        for name, part in command.commands.items():
            part.short_help = part.short_help or " ".join((part.help or "").split("\n\n")[0].split())
            _finish(part, f"{path} {name}")


def _finite(_ctx: click.Context, _option: click.Parameter, value: Any) -> Any:
    for number in value if isinstance(value, tuple) else (value,):
        if number is not None and not math.isfinite(number):
            raise click.BadParameter(f"{number} is not a finite number.")
    return value


class Name(click.types.StringParamType):
    """A text that is completed: with names that are known, else as a file."""

    def __init__(self, known: Callable[[], Iterable[str]]) -> None:
        self.known = known

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Names that begin so; a file where none does."""
        found = [CompletionItem(name) for name in self.known() if name.startswith(incomplete)]
        return found or [CompletionItem(incomplete, type="file")]


def _strategies() -> Iterable[str]:
    from placement.strategies import STRATEGIES

    return STRATEGIES


def _deliveries() -> Iterable[str]:
    from simulator.delivery import DELIVERIES

    return DELIVERIES


FILES = (
    *("trace", "traces", "source", "history", "records", "log_dir", "knowledge", "model"),
    *("kubeconfig", "prometheus_token_file", "prometheus_ca"),
)
NAMES = {
    **dict.fromkeys(("strategy", "strategies"), Name(_strategies)),
    **dict.fromkeys(("delivery", "deliveries"), Name(_deliveries)),
    **dict.fromkeys(FILES, Name(tuple)),
}
"""Parameter → how its text is completed. Files are mere texts where more may be written, or where ours is the complaint."""

ENDING = """\b
Begin with: ullage compare demo --report out/demo.html
Exit codes: 0 done; 1 failed, or a check found something; 2 wrong usage; 130 interrupted.
Every command explains itself: ullage COMMAND -h."""


@click.group(
    cls=LazyGroup,
    epilog=ENDING,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--debug", is_flag=True, help="Show tracebacks.")
@click.version_option(package_name="ullage", message="%(prog)s %(version)s")
def root(debug: bool) -> None:
    """Ullage leaves less of your cluster empty: a scheduler extender that is learned, planned and simulated."""


@root.command()
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="Format.")
def version(output: str) -> None:
    """Print versions of ullage and of what decides."""
    versions: dict[str, Any] = {"ullage": metadata.version("ullage"), "python": sys.version.split()[0]}
    for name in ("numpy", "numba", "ortools", "lightgbm", "kubernetes", "grpcio"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    if output == "json":
        click.echo(json.dumps({"apiVersion": "ullage.dev/v1", "kind": "Version", **versions}))
    else:
        click.echo("\n".join(f"{name:12}{number or 'not installed'}" for name, number in versions.items()))


@root.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print shell completion: add `eval "$(ullage completion bash)"` to your profile."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None, "click knows bash, zsh and fish"
    click.echo(kind(root, {}, "ullage", "_ULLAGE_COMPLETE").source())


def _with_nearest(error: click.ClickException) -> click.ClickException:
    """The error; of a misspelt command, one that also says what may have been meant."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None or not isinstance(context.command, click.Group) or not error.message.startswith("No such comm"):
        return error
    given = error.message.partition("'")[2].partition("'")[0]
    near = difflib.get_close_matches(given, context.command.list_commands(context), 1)
    return click.UsageError(f"{error.message} Did you mean '{near[0]}'?", context) if near else error


AGAIN_S = 0.1
"""After which an interrupt comes once more, of which Python has made nothing."""


class _Ended:
    """Lets SIGTERM end a command as Ctrl-C does, by whatever listens for that; ``ullage serve`` listens for both itself.

    An interrupt may come where nobody takes an exception: while LLVM calls back as it compiles, or an object is finalized.
    Python drops it there, so it comes once more; what goes wrong before, for want of what it cut short, is no failure.
    """

    def __init__(self) -> None:
        self.code = 130
        self.was_dropped = False
        self._tell = sys.unraisablehook
        sys.unraisablehook = self._drop
        signal.signal(signal.SIGTERM, self)

    def _drop(self, what: sys.UnraisableHookArgs) -> None:
        if not issubclass(what.exc_type, KeyboardInterrupt):
            self._tell(what)
            return
        self.was_dropped = True
        signal.signal(signal.SIGALRM, self)
        signal.setitimer(signal.ITIMER_REAL, AGAIN_S)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGALRM:
            self.was_dropped = False
        else:
            self.code = 128 + number
        if callable(signal.getsignal(signal.SIGINT)):
            signal.raise_signal(signal.SIGINT)
        else:  # Ctrl-C is ignored, as shells have it for what they start in the background
            raise KeyboardInterrupt


def _open_closed_streams() -> None:
    """Standard streams that are closed lead nowhere instead: Python has none then, and the next files and sockets, ours or
    a worker's, would get their numbers and whatever a library prints."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115  # as long as the process lives
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def _called(ended: _Ended) -> int:
    """Exit code of the command that was called."""
    try:
        code = root.main(standalone_mode=False, prog_name="ullage")  # click hands back the code of ctx.exit(code)
    except Exception as error:
        if not ended.was_dropped or "--debug" in sys.argv:
            raise
        raise KeyboardInterrupt from error
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return code if isinstance(code, int) else 0


def main() -> None:
    """Entry point of the ``ullage`` command."""
    _open_closed_streams()
    debug = "--debug" in sys.argv
    ended = _Ended()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as standard error: no name, no locale ends a command
    try:
        sys.exit(_called(ended))
    except click.ClickException as error:
        _with_nearest(error).show()
        sys.exit(error.exit_code if isinstance(error, click.UsageError) else 1)
    except (KeyboardInterrupt, click.Abort):
        click.echo(
            "ullage: interrupted; run the same command again: where it keeps finished work, it takes it up again",
            err=True,
        )
        sys.exit(ended.code)
    except MemoryError:
        if debug:
            raise
        click.echo("ullage: memory ran out; give smaller numbers, or a machine with more", err=True)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if debug:
            raise
        extra = EXTRAS.get(str(error.name).partition(".")[0], "all")
        click.echo(
            f"ullage: this needs {error.name}, which the install lacks; in a checkout `make install` adds it, elsewhere "
            f"pip install 'ullage[{extra}]' in its environment",
            err=True,
        )
        sys.exit(1)
    except PlacementError as error:
        if debug:
            raise
        click.echo(f"ullage: {error}", err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
    except OSError as error:
        if debug:
            raise
        where = f" ({error.filename})" if error.filename else ""
        click.echo(f"ullage: {error.strerror or error}{where}; check the path, its rights and free space", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
