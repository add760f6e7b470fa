"""What does `module:attr` or `path/file.py:attr` mean, and what may it be given?

Resolving a reference runs the code of the module that it names.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType, UnionType
from typing import Union, get_args, get_origin, get_type_hints

SHAPE = "module:name or path/file.py:name"

PLAIN_KINDS = (int, float, str, bool, tuple, list, dict, type(None))
"""Types that a value of the command line can have."""

_LIBRARIES = tuple({sysconfig.get_path(kind) for kind in ("stdlib", "purelib", "platlib")})


def resolve(reference: str, *, default_module: str | None = None) -> object:
    """Import what a reference names; the working directory is put on `sys.path`.

    Args:
        reference: `module:attr` or `path/file.py:attr`; `attr` may have dots.
        default_module: Where a bare name is looked up.

    Raises:
        ValueError: If the text is no reference, or module or attribute do not exist.
        FileNotFoundError: If the file does not exist.
        ImportError: If the module fails while it is imported; its own error is the cause.
    """
    place, attribute = _split(reference, default_module)
    found: object = _load(place)
    for name in attribute.split("."):
        if not hasattr(found, name):
            public = [one for one in dir(found) if not one.startswith("_")]
            raise ValueError(f"{place} has no {name!r}{suggest(name, public)}")
        found = getattr(found, name)
    return found


def parse_settings(texts: Iterable[str]) -> dict[str, object]:
    """Read `key=value` texts; a value is a Python literal, `true` or `false`, or else a string.

    Raises:
        ValueError: If a text is not of that form, or a key comes twice.
    """
    settings: dict[str, object] = {}
    for text in texts:
        key, equals, value = (part.strip() for part in text.partition("="))
        if not equals or not key.isidentifier():
            raise ValueError(f"expected key=value, got {text!r}")
        if key in settings:
            raise ValueError(f"{key!r} is set twice")
        settings[key] = _parse_value(value)
    return settings


def call_factory(factory: object, settings: Mapping[str, object], *, name: str) -> object:
    """Call `factory(**settings)`, after a check that it takes them.

    Args:
        factory: Any callable; anything else is an error.
        settings: Keyword arguments.
        name: How messages call the factory.

    Raises:
        TypeError: If it cannot be called.
        ValueError: If it does not know a setting, needs one that is missing, or fails with an error of the usual kinds,
            which then is the cause.
    """
    if not callable(factory):
        raise TypeError(f"{name} is {describe(factory)}: expected a function")
    try:
        signature = inspect.signature(factory)
    except ValueError:  # some builtins have none
        signature = None
    if signature is not None:
        _check_settings(signature, settings, name)
        _check_kinds(factory, settings, name)
    try:
        return factory(**settings)
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise ValueError(f"{name}: {error}{_where(error)}") from error


def describe(value: object) -> str:
    """Name the kind of a value in a sentence: `"a list"`, `"a tuple of 5"`, `"None"`."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    return "None" if value is None else f"a {type(value).__name__}"


def suggest(name: str, known: Iterable[str]) -> str:
    """End a message on an unknown name with what it may have meant: text that begins with `;`, or nothing."""
    known = list(known)
    close = get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return f"; did you mean {' or '.join(map(repr, close))}?"
    return f"; it has: {', '.join(known)}" if 0 < len(known) <= 12 else ""


def _split(reference: str, default_module: str | None) -> tuple[str, str]:
    place, colon, attribute = reference.rpartition(":")
    if not colon and default_module is not None:
        place, attribute = default_module, reference
    if not place and attribute.endswith(".py"):
        raise ValueError(f"{reference!r} names a file and nothing in it: write {reference}:name_of_the_function")
    if not place or not all(part.isidentifier() for part in attribute.split(".")):
        raise ValueError(f"expected {SHAPE}, got {reference!r}")
    return place, attribute


def _load(place: str) -> ModuleType:
    _put_on_path(Path.cwd())
    if place.endswith(".py") or "/" in place or "\\" in place:
        return _load_file(Path(place))
    if not all(part.isidentifier() for part in place.split(".")):
        raise ValueError(f"{place!r} is no name of a module: expected {SHAPE}")
    return _import(place)


def _load_file(path: Path) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        names = [one.stem for one in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise FileNotFoundError(f"there is no file {path}{suggest(path.stem, names)}")
    if path.suffix != ".py" or not path.stem.isidentifier():
        raise ValueError(f"{path.name} cannot be imported: expected a name like my_task.py")
    root, parts = path.parent, [path.stem]
    while (root / "__init__.py").is_file():
        root, parts = root.parent, [root.name, *parts]
    _put_on_path(root)
    module = _import(".".join(parts))
    if Path(module.__file__ or "").resolve() != path:
        raise ValueError(f"another module is called {module.__name__!r} already: rename {path.name}")
    return module


def _put_on_path(directory: Path) -> None:
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))


def _import(name: str) -> ModuleType:
    importlib.invalidate_caches()
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ImportError(_failure(name, error)) from error
        raise ValueError(_not_found(error.name)) from error
    except Exception as error:
        raise ImportError(_failure(name, error)) from error


def _not_found(name: str) -> str:
    above, _, last = name.rpartition(".")
    parent = sys.modules.get(above)
    if above and not hasattr(parent, "__path__"):
        return f"there is no module {name!r}: {above} is no package"
    places = list(parent.__path__) if parent is not None and above else sys.path
    siblings = [one.name for one in pkgutil.iter_modules(places)]
    where = "" if above else f" in {Path.cwd()} or among the installed ones"
    return f"there is no module {name!r}{where}{suggest(last, siblings)}"


def _failure(name: str, error: Exception) -> str:
    return f"importing {name} failed: {type(error).__name__}: {error}{_where(error)}"


def _where(error: Exception) -> str:
    frames = [one for one in traceback.extract_tb(error.__traceback__) if not _is_library(one.filename)]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def _is_library(filename: str) -> bool:
    return filename.startswith(("<frozen", *_LIBRARIES)) or filename == __file__


def _parse_value(text: str) -> object:
    if text in ("true", "false"):
        return text == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text


def _check_settings(signature: inspect.Signature, settings: Mapping[str, object], name: str) -> None:
    kinds = inspect.Parameter
    parameters = signature.parameters.values()
    takes_any = any(one.kind is kinds.VAR_KEYWORD for one in parameters)
    known = [one.name for one in parameters if one.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)]
    for key in settings:
        if key not in known and not takes_any:
            takes = f"it takes {', '.join(known)}" if known else "it takes no settings"
            close = get_close_matches(key, known, n=1, cutoff=0.6)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"{name} does not know {key!r}: {takes}{hint}")
    try:
        signature.bind(**settings)
    except TypeError as error:
        raise ValueError(f"{name} needs more settings, each as KEY=VALUE: {error}") from error


def _check_kinds(factory: Callable[..., object], settings: Mapping[str, object], name: str) -> None:
    """Compare settings with those annotations that are made of plain types; others are left to the factory."""
    try:
        hints = get_type_hints(factory.__init__ if isinstance(factory, type) else factory)  # type: ignore[misc]
    except (NameError, TypeError):  # annotations that only a type checker can read
        return
    for key, value in settings.items():
        kinds = _plain_kinds(hints.get(key))
        if kinds and not isinstance(value, (*kinds, int) if float in kinds else kinds):
            words = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ValueError(f"{name}: expected {key!r} to be {words}, got {value!r}")


def _plain_kinds(hint: object) -> tuple[type, ...]:
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    kinds = tuple(get_origin(part) or part for part in parts)
    return kinds if all(kind in PLAIN_KINDS for kind in kinds) else ()
