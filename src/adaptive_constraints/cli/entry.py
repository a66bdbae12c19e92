"""From words to a command and its exit code."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Union

from adaptive_constraints._version import __version__
from adaptive_constraints.cli.bench import Bench
from adaptive_constraints.cli.command import FAILED, INTERRUPTED, PIPE_CLOSED, TERMINATED, Command
from adaptive_constraints.cli.data import Collect, Doctor
from adaptive_constraints.cli.evaluate import Evaluate
from adaptive_constraints.cli.explain import Explain, List
from adaptive_constraints.cli.export import Export
from adaptive_constraints.cli.ope import Ope
from adaptive_constraints.cli.repair import Repair
from adaptive_constraints.cli.report import Report
from adaptive_constraints.cli.runs import Finetune, Train
from adaptive_constraints.errors import AdaptiveConstraintsError, DependencyError, TrainingError
from adaptive_constraints.support.stopping import Terminated, terminable

COMMANDS: dict[str, type[Command]] = {
    "train": Train,
    "finetune": Finetune,
    "evaluate": Evaluate,
    "export": Export,
    "ope": Ope,
    "explain": Explain,
    "list": List,
    "doctor": Doctor,
    "repair": Repair,
    "collect": Collect,
    "bench": Bench,
    "report": Report,
}
"""Every command by its name, in the order of the help."""
DESCRIPTION = "Offline reinforcement learning with composable adapters. --version shows which release this is."
_LONGEST = 19
"""Digits that a whole number may have."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--version"]:
        print(f"adaptive-constraints {__version__}")
        return 0
    try:
        _refuse_repeated(words)
        _refuse_misspelled(words)
        _refuse_missing(words)
        command = parse(words)
    except SystemExit as end:  # --help, or words that are no command
        return end.code if isinstance(end.code, int) else FAILED
    except AdaptiveConstraintsError as error:
        return _failed(error, debug=False)
    except BrokenPipeError:
        return _unread()
    try:
        from adaptive_constraints.runs.loop import LostSeedWarning

        with terminable(), warnings.catch_warnings():
            warnings.simplefilter("ignore", LostSeedWarning)  # said by the progress display and by the final table
            _import(command.common.imports)
            code = command.run()
            sys.stdout.flush()  # here, where a reader that has gone is known
            return code
    except KeyboardInterrupt as error:
        print(str(error) or "interrupted", file=sys.stderr)
        return INTERRUPTED
    except Terminated as error:
        print(error, file=sys.stderr)
        return TERMINATED
    except BrokenPipeError:
        return _unread()
    except (AdaptiveConstraintsError, OSError) as error:
        return _failed(error, command.common.debug)
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        return _failed(_too_large(error), command.common.debug)


def _unread() -> int:
    """The exit code where who read the output has gone, such as head, which has read enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return PIPE_CLOSED


def parse(words: Sequence[str]) -> Command:
    """The command that these words give; exits (`SystemExit`) with a message where they give none."""
    try:
        import tyro
    except ImportError as error:
        raise DependencyError(
            "the command line needs tyro, which is not installed: pip install 'adaptive-constraints[cli]'"
        ) from error
    kinds: list[Any] = []
    for name, kind in COMMANDS.items():
        positions = () if kind.options_only else (tyro.conf.PositionalRequiredArgs,)
        kinds.append(Annotated[(kind, tyro.conf.subcommand(name), *positions)])
    any_of: Any = Union[tuple(kinds)]  # noqa: UP007
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            command: Command = tyro.cli(
                any_of,
                prog="adaptive-constraints",
                description=DESCRIPTION,
                args=words,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff),
                registry=_whole_numbers(),
            )
    except SystemExit as end:
        if end.code and (text := _unboxed(said.getvalue())):
            raise TrainingError(text) from None
        print(said.getvalue(), file=sys.stderr, end="")
        raise
    return command


def _whole_numbers() -> Any:
    """Rules by which whole numbers are read, 1e3 among them."""
    import tyro

    registry = tyro.constructors.ConstructorRegistry()

    @registry.primitive_rule
    def rule(kind: Any) -> Any:
        if kind.type is not int:
            return None
        return tyro.constructors.PrimitiveConstructorSpec(
            nargs=1,
            metavar="INT",
            instance_from_str=lambda words: whole_number(words[0]),
            is_instance=lambda value: isinstance(value, int),
            str_from_instance=lambda value: [str(value)],
        )

    return registry


def whole_number(word: str) -> int:
    """A whole number, also as 1e3 or 2_000; raises `ValueError` for any other word.

    >>> from adaptive_constraints.cli.entry import whole_number
    >>> whole_number("1e3"), whole_number("-7")
    (1000, -7)
    """
    try:
        return int(word)
    except ValueError:
        pass
    try:
        number = Decimal(word)
        whole = number.is_finite() and abs(number.adjusted()) < _LONGEST and number == number.to_integral_value()
    except InvalidOperation:
        whole = False
    if not whole:
        raise ValueError(f"it must be a whole number, not {word!r}")
    return int(number)


def _unboxed(text: str) -> str:
    """What the parser says in a box, as one line; "" where there is no box."""
    parts: list[str] = []  # the first is the title
    for line in text.splitlines():
        inner = line.strip("│╭╮╰╯ ")
        if line.lstrip().startswith("╭") or (inner and set(inner) <= {"─", "-"}):
            parts.append("")
        elif parts:
            parts[-1] = f"{parts[-1]} {inner}".strip()
    helpful = [part for part in parts if part and not part.startswith(("Argument helptext", "For full helptext"))]
    said = "; ".join(helpful).removeprefix("Error parsing ").replace(" (required)", "")
    return re.sub(r"^Missing from adaptive-constraints (\w+): ", r"\1 needs ", said)


def _refuse_missing(words: Sequence[str]) -> None:
    """Options that a command cannot do without."""
    name = next((word for word in words if not word.startswith("-")), None)
    if name is None or {"-h", "--help"} & {*words}:
        return
    kind: Any = COMMANDS.get(name)
    if kind is None:
        return
    named: Any = kind  # every command is a dataclass
    required = [entry.name for entry in fields(named) if entry.default is MISSING and entry.default_factory is MISSING]
    given = {word.partition("=")[0].replace("_", "-") for word in words}
    options = [f"--{entry.replace('_', '-')}" for entry in required]
    missing = [option for option in options if option not in given] if kind.options_only else []
    if missing and {word for word in given if word.startswith("--")} <= {*_options(kind)}:
        known = " and ".join(filter(None, [", ".join(missing[:-1]), missing[-1]]))
        raise TrainingError(f"{name} needs {known}: adaptive-constraints {name} --help says what they are")


def _refuse_repeated(words: Sequence[str]) -> None:
    """An option given twice would silently lose its first values."""
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    for option in options:
        if options.count(option) > 1:
            raise TrainingError(f"{option} is given twice; name all its values after one {option}")


def _refuse_misspelled(words: Sequence[str]) -> None:
    """A command or an option that is nearly one; what is not near to any is left to the parser, which lists them."""
    name = next((word for word in words if not word.startswith("-")), None)
    if name is None:
        _suggest("the commands have", words, ["--help", "--version"])
    elif name not in COMMANDS:
        _suggest("there is", [name], list(COMMANDS))
    else:
        options = [word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")]
        _suggest(f"{name} has", options, ["--help", *_options(COMMANDS[name])])


def _suggest(who: str, words: Sequence[str], known: Sequence[str]) -> None:
    for word in words:
        if word not in known and (close := difflib.get_close_matches(word, known, n=1)):
            kind = "option" if word.startswith("-") else "command"
            raise TrainingError(f"{who} no {kind} {word}: did you mean {close[0]}?")


def _options(kind: type) -> Iterator[str]:
    """The options of a command, those of its groups among them."""
    for setting in fields(kind):
        group: Any = setting.default_factory
        if isinstance(group, type) and is_dataclass(group):
            yield from _options(group)
        else:
            name = setting.name.replace("_", "-")
            yield f"--no-{name}" if setting.default is True else f"--{name}"


def _import(modules: Sequence[str]) -> None:
    """Import what defines own learners and adapters, from the working directory too."""
    if modules and "" not in sys.path:
        sys.path.insert(0, "")
    for module in modules:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise DependencyError(f"--imports {module}: {error}; give a module's dotted name, not a file") from error
        except Exception as error:
            text = f"--imports {module}: it fails while being imported ({type(error).__name__}: {error})"
            raise DependencyError(f"{text}; import it in Python to see where") from error


def _out_of_memory(error: Exception) -> bool:
    """Tell whether memory ran out: numpy's, torch's on a GPU, or torch's on a CPU, which has no type for it."""
    import torch

    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _too_large(error: Exception) -> TrainingError:
    first = (str(error).splitlines() or ["no more is known"])[0]
    return TrainingError(f"out of memory ({first}); take fewer seeds, a smaller width or a smaller batch")


def _failed(error: BaseException, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    print(f"error: {error}", file=sys.stderr)
    return FAILED


__all__ = ["COMMANDS", "main", "parse"]
