"""A command line from frozen dataclasses: one dataclass a verb, one annotated field an argument.

The types and defaults of the fields are the grammar, `Option` adds the words for ``--help``, and what was typed becomes
an instance. Built on argparse, which imports in 50 ms and whose refusals can be one line; tyro takes 350 ms and draws a
box of eight lines that only a private interface of it can replace.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

from medidiff.errors import SettingsError

__all__ = ["Option", "parse"]


@dataclass(frozen=True, slots=True)
class Option:
    """What the type of a field cannot say; stands in its ``Annotated``.

    Args:
        help: one phrase.
        metavar: what the value is called, a name for each value; a single name in capitals makes a positional argument
            of a field without a default.
        flags: how the option is spelled; ``--field-name`` when empty.
        positional: whether the value stands without a flag.
        group: title above the option in ``--help``; among the others when empty.
    """

    help: str
    metavar: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    positional: bool = False
    group: str = ""


@dataclass(frozen=True, slots=True)
class _Argument:
    """One field of a verb as argparse and the conversion need it."""

    name: str
    hint: Any
    option: Option
    required: bool
    default: Any

    @property
    def label(self) -> str:
        return self.option.metavar[0] if self.option.positional else "/".join(self.flags)

    @property
    def flags(self) -> tuple[str, ...]:
        return self.option.flags or (f"--{self.name.replace('_', '-')}",)

    @property
    def parts(self) -> tuple[Any, ...]:
        """The type of each value that the argument takes; a single one where it takes any number of them."""
        parts = typing.get_args(self.hint) if typing.get_origin(self.hint) is tuple else (self.hint,)
        return tuple(part for part in parts if part is not Ellipsis)

    @property
    def is_list(self) -> bool:
        """Whether it takes one value or more."""
        return Ellipsis in typing.get_args(self.hint)

    def add_to(self, parser: argparse._ActionsContainer) -> None:
        shown = "" if self.required or self.default is None else f" (default: {self.default})"
        if self.hint is bool:
            parser.add_argument(*self.flags, dest=self.name, action="store_true", help=self.option.help)
            return
        names = self.option.metavar or (_choices(self.hint) or self.name.upper(),)
        metavar: Any = names if len(self.parts) > 1 else names[0]
        count: dict[str, Any] = {"nargs": len(self.parts)} if len(self.parts) > 1 else {}
        count |= {"nargs": "+"} if self.is_list else {}
        words: dict[str, Any] = {"metavar": metavar, "help": self.option.help.replace("%", "%%") + shown, **count}
        if self.option.positional:
            parser.add_argument(self.name, **words)
        else:
            parser.add_argument(*self.flags, dest=self.name, required=self.required, default=None, **words)

    def value(self, typed: Any) -> Any:
        """The field's value from what argparse collected."""
        if typed is None:
            return self.default
        if self.hint is bool:
            return typed
        words = typed if isinstance(typed, list) else [typed]
        if self.is_list:
            return tuple(_convert(self.parts[0], word, label=self.label) for word in words)
        values = tuple(_convert(hint, word, label=self.label) for hint, word in zip(self.parts, words, strict=True))
        return values if len(self.parts) > 1 else values[0]


class _Parser(argparse.ArgumentParser):
    """argparse, but a refusal is a `SettingsError`."""

    def error(self, message: str) -> NoReturn:
        hint = "A name with spaces, or a pattern, stands in quotes. " if "unrecognized arguments" in message else ""
        raise SettingsError("E-USAGE", message, mend=f"{hint}See '{self.prog} --help'.")


def parse(
    argv: Sequence[str],
    verbs: Mapping[str, type],
    *,
    version: str,
    epilog: str,
    families: Mapping[str, str] = types.MappingProxyType({}),
) -> Any:
    """The verb that a command line asks for, as an instance of its dataclass.

    Args:
        argv: what was typed after the program's name.
        verbs: name to dataclass, in the order of ``--help``; a name of two words, ``"batch status"``, is typed as two.
        version: answer to ``--version``.
        epilog: end of every ``--help``.
        families: what the verbs of two words that begin alike are for, by their first word.

    Raises:
        SettingsError: ``E-USAGE``, with the nearest name that exists.
        SystemExit: after ``--help`` and ``--version``.
    """
    root = _Parser(prog="medidiff", description=_SUMMARY, epilog=epilog, allow_abbrev=False, formatter_class=_Help)
    root.add_argument("--version", action="version", version=version)
    commands = root.add_subparsers(dest="verb", metavar="VERB", title="verbs", parser_class=_Parser)
    begun: dict[str, argparse._SubParsersAction[_Parser]] = {}
    for name, verb in verbs.items():
        first, _, second = name.partition(" ")
        if second and first not in begun:
            begun[first] = _family(commands, first, _words(verbs, first), families.get(first, ""))
        _add(begun[first] if second else commands, second or first, verb, epilog)
    chosen = _refuse_unknown(list(argv), verbs)
    typed = vars(root.parse_args(argv))
    verb = verbs[chosen]
    return verb(**{argument.name: argument.value(typed[argument.name]) for argument in _arguments(verb)})


def _words(verbs: Mapping[str, type], first: str) -> list[str]:
    """The second words of the verbs that begin with this one."""
    return [second for name in verbs for one, _, second in [name.partition(" ")] if one == first and second]


def _family(
    commands: argparse._SubParsersAction[_Parser], name: str, words: Sequence[str], about: str
) -> argparse._SubParsersAction[_Parser]:
    """The place of the verbs of two words that begin alike."""
    text = f"{about} Verbs: {', '.join(words)}."
    family = commands.add_parser(name, help=text.lstrip(), description=about, allow_abbrev=False, formatter_class=_Help)
    return family.add_subparsers(dest="second", metavar="VERB", title="verbs", parser_class=_Parser, required=True)


def _add(commands: argparse._SubParsersAction[_Parser], name: str, verb: type, epilog: str) -> None:
    text = inspect.cleandoc(verb.__doc__ or "")
    command = commands.add_parser(
        name, help=text.split("\n")[0], description=text, epilog=epilog, allow_abbrev=False, formatter_class=_Help
    )
    groups: dict[str, argparse._ActionsContainer] = {"": command}
    for argument in _arguments(verb):
        title = argument.option.group
        if title not in groups:
            groups[title] = command.add_argument_group(title)
        argument.add_to(groups[title])


_SUMMARY = "Denoise and super-resolve medical scans with a learned 3D prior. Research use only, not for diagnosis."


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)


def _arguments(verb: type) -> list[_Argument]:
    hints = typing.get_type_hints(verb, include_extras=True)
    found = []
    for field in dataclasses.fields(verb):
        hint, option = typing.get_args(hints[field.name])
        required = field.default is dataclasses.MISSING
        found.append(_Argument(field.name, _required(hint), option, required, None if required else field.default))
    return found


def _required(hint: Any) -> Any:
    """``X`` of ``X | None``."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = (part for part in typing.get_args(hint) if part is not type(None))
    return hint


def _choices(hint: Any) -> str:
    return "{" + ",".join(typing.get_args(hint)) + "}" if typing.get_origin(hint) is Literal else ""


def _convert(hint: Any, word: str, *, label: str) -> Any:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return _number_or_word(hint, word, label=label)
    if choices := typing.get_args(hint):
        if word in choices:
            return word
        wanted = " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))
        raise SettingsError("E-USAGE", f"'{word}'", wanted=wanted, attribute=label)
    if not word and hint not in (str, int, float):  # an empty variable of a shell: the folder at hand, as a path
        raise SettingsError("E-USAGE", "an empty name", wanted="a path", attribute=label)
    try:
        return hint(word)
    except ValueError as error:
        wanted = {int: "a whole number", float: "a number"}.get(hint, hint.__name__)
        raise SettingsError("E-USAGE", f"'{word}'", wanted=wanted, attribute=label) from error


def _number_or_word(hint: Any, word: str, *, label: str) -> float | str:
    """A number, or the one word that may stand in its place."""
    (allowed,) = (choice for part in typing.get_args(hint) for choice in typing.get_args(part))
    try:
        return word if word == allowed else float(word)
    except ValueError as error:
        raise SettingsError("E-USAGE", f"'{word}'", wanted=f"a number or '{allowed}'", attribute=label) from error


def _refuse_unknown(argv: list[str], verbs: Mapping[str, type]) -> str:
    """The verb; names what comes nearest to an unknown verb or option, where argparse would repeat what was typed."""
    known = ["--help", "--version"]
    words = [n for n, word in enumerate(argv) if not word.startswith("-")]
    if not words:
        if not {"-h", *known}.intersection(argv):
            raise SettingsError("E-USAGE", "no verb", wanted=", ".join(verbs), mend="See 'medidiff --help'.")
        return ""
    name = argv[words[0]]
    seconds = _words(verbs, name)
    if name not in verbs and not seconds:
        raise _unknown("verb", name, list(dict.fromkeys(verb.partition(" ")[0] for verb in verbs)))
    if seconds:
        second = argv[words[0] + 1] if len(argv) > words[0] + 1 else ""
        if second not in (*seconds, "-h", "--help"):
            wanted, mend = ", ".join(seconds), f"See 'medidiff {name} --help'."
            if not second or second.startswith("-"):
                raise SettingsError("E-USAGE", f"'{name}' alone", wanted=f"'{name}' and one of {wanted}", mend=mend)
            raise _unknown("verb", f"{name} {second}", [f"{name} {word}" for word in seconds])
        name = f"{name} {second}"
    known += [flag for argument in _arguments(verbs[name]) for flag in argument.flags] if name in verbs else []
    for word in argv[: argv.index("--")] if "--" in argv else argv:
        if word.startswith("--") and word.split("=")[0] not in known:
            raise _unknown("option", word.split("=")[0], known)
    return name


def _unknown(kind: str, word: str, known: Sequence[str]) -> SettingsError:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    mend = f"Did you mean {near[0]}?" if near else "See 'medidiff --help'."
    return SettingsError("E-USAGE", f"unknown {kind} '{word}'", mend=mend)
