"""`--config FILE.toml`: options of a verb in a file, which the command line goes before."""

from __future__ import annotations

import csv
import difflib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UsageError
from .options import option_name

if TYPE_CHECKING:
    from cyclopts import App

__all__ = ["with_file"]


def with_file(app: App, arguments: list[str], verbs: list[str]) -> list[str]:
    """The arguments with what `--config FILE` holds for their verb."""
    rest, path = _without_config(arguments)
    verb = next((argument for argument in rest if argument in verbs), None)
    if path is None or verb is None:
        return rest
    options: set[str] = set()
    positional: set[str] = set()
    for argument in app[verb].assemble_argument_collection():
        names = positional if argument.field_info.kind is argument.field_info.POSITIONAL_ONLY else options
        if argument.parameter.parse is not False:
            names.add(argument.name.strip("-").replace("-", "_").lower())
    added = []
    for key, value in _table(path, verb, verbs).items():
        name = key.replace("-", "_")
        if name in positional:
            raise UsageError(
                f"--config {path}: {key!r} is given on the command line: innerloop {verb} {name.upper()}"
            )
        if name not in options:
            near = difflib.get_close_matches(name, options, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UsageError(f"--config {path}: innerloop {verb} has no option {key!r}{hint}")
        if not any(argument.partition("=")[0] == option_name(name) for argument in rest):
            added += _words(option_name(name), value, path)
    position = rest.index(verb) + 1
    return [*rest[:position], *added, *rest[position:]]


def _without_config(arguments: list[str]) -> tuple[list[str], Path | None]:
    """The arguments without `--config FILE`, and FILE."""
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name != "--config":
            continue
        if not equals and position + 1 == len(arguments):
            raise UsageError("--config needs a TOML file")
        rest = arguments[:position] + arguments[position + (1 if equals else 2) :]
        return rest, Path(value if equals else arguments[position + 1])
    return arguments, None


def _table(path: Path, verb: str, verbs: list[str]) -> dict[str, object]:
    """The options of a verb in a TOML file: its table, or the whole file where that has no tables."""
    import tomllib

    if not path.is_file():
        raise UsageError(f"--config {path}: there is no such file")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"--config {path}: not a TOML file: {error}") from None
    except OSError as error:
        raise UsageError(f"--config {path}: cannot be read: {error.strerror}") from None
    tables = {key: value for key, value in content.items() if isinstance(value, dict)}
    unknown = next((key for key in tables if key not in verbs), None)
    if unknown is not None:
        raise UsageError(f"--config {path}: table [{unknown}] is no verb: the verbs are {', '.join(verbs)}")
    loose = next((key for key in content if key not in tables), None)
    if tables and loose is not None:
        raise UsageError(
            f"--config {path}: {loose!r} stands outside the table of a verb: move it into [{verb}]"
        )
    return tables.get(verb, {}) if tables else content


def _words(option: str, value: object, path: Path) -> list[str]:
    """An option of the file as words of the command line."""
    if isinstance(value, bool):
        return [option] if value else []
    if isinstance(value, list):
        line = io.StringIO()
        csv.writer(line, lineterminator="").writerow(value)
        value = line.getvalue()
    if not isinstance(value, str | int | float):
        raise UsageError(
            f"--config {path}: {option[2:]} is {value!r}: give text, a number, true, false or a list"
        )
    return [f"{option}={value}"]
