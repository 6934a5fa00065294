"""An engine on the command line: --engine, --engine_opt, and the flags that the engines' options ask for themselves.

Everything is read from the Options dataclasses, so a script, its `--help` and the cluster's check before submitting agree, and
a new engine's options are there at once.
"""

import argparse
from dataclasses import fields
from typing import Any, TypeVar

from pipeline.arguments import named_values
from pipeline.engines import engines_of, load_engine
from pipeline.engines.base import Engine
from pipeline.engines.info import Role

Kind = TypeVar("Kind", bound=Engine)


def add_engine_flags(parser: argparse.ArgumentParser, role: Role, default: str) -> None:
    """--engine, --engine_opt, --device, and every flag that an option of an engine for this job names."""
    engines = engines_of(role)
    group = parser.add_argument_group("engine")
    group.add_argument("--engine", default=default, metavar="NAME", help=", ".join(engines))
    group.add_argument(
        "--engine_opt",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the engine, see below; may be repeated",
    )
    group.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    for flag, uses in _flags(engines).items():
        told = "; ".join(f"of {name}: {item.metadata['help']}; {item.default} unless given" for name, item in uses)
        group.add_argument(f"--{flag}", default=argparse.SUPPRESS, metavar="VALUE", help=told.replace("%", "%%"))
    parser.epilog = "\n\n".join(text for text in (parser.epilog, _described(engines)) if text)


def _flags(engines: dict[str, type[Engine]]) -> dict[str, list[tuple[str, Any]]]:
    """Flag -> the engines and option fields that it sets."""
    found: dict[str, list[tuple[str, Any]]] = {}
    for name, engine in engines.items():
        for item in fields(engine.Options):
            if item.metadata.get("flag"):
                found.setdefault(item.metadata["flag"], []).append((name, item))
    return found


def _described(engines: dict[str, type[Engine]]) -> str:
    """The engines' options for the end of `--help`: name, default, meaning."""
    lines = ["options of the engines (--engine_opt NAME=VALUE):"]
    for name, engine in engines.items():
        options = fields(engine.Options)
        lines.append(f"  {name}" + ("" if options else ": none"))
        lines += [
            f"    {f'{item.name}={item.default}':<24} {item.metadata.get('help', '')}".rstrip() for item in options
        ]
    return "\n".join(lines)


def given_options(args: argparse.Namespace, role: Role) -> dict[str, str]:
    """The engine's options that were given, by name: --engine_opt pairs, and flags of their own.

    Raises:
        UsageError: an --engine_opt has no "=".
    """
    pairs = named_values(args.engine_opt, "--engine_opt")
    for flag, uses in _flags(engines_of(role)).items():
        if flag in args:
            own = [item.name for name, item in uses if name == args.engine]
            pairs[(own or [uses[0][1].name])[0]] = getattr(args, flag)
    return pairs


def engine_from(args: argparse.Namespace, role: Role, kind: type[Kind]) -> Kind:
    """The engine that flags ask for.

    Raises:
        UsageError: unknown name, option or device.
    """
    return load_engine(role, args.engine, given_options(args, role), args.device, kind)
