"""Every error that the library raises, and the helpers that word them: argument, value, mend."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib
import inspect
import math
import re
import types
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral, Real
from types import ModuleType
from typing import Any, Literal, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

P = ParamSpec("P")
R = TypeVar("R")

_LONGEST = 120  # letters of a value in a message


class WellposedError(Exception):
    """Root of every error raised on purpose by this library."""


class InputError(WellposedError, ValueError):
    """An argument is unusable; the message names it, its value and the mend."""


class OptionError(WellposedError, TypeError):
    """An option that does not exist was passed; the message suggests the nearest one that does."""


class NotConvergedError(WellposedError, RuntimeError):
    """A solve ended without reaching its tolerance and the caller asked for an error."""


class DivergedError(WellposedError, RuntimeError):
    """A training ended in numbers that are not finite; the message says what to change."""


class MissingExtraError(WellposedError, ImportError):
    """A feature needs a package from one of the optional extras."""


class DataError(WellposedError, RuntimeError):
    """A data file is missing, corrupt or of the wrong kind."""


class CheckpointError(WellposedError, RuntimeError):
    """A run folder or weight file cannot be used; the message says why."""


class CertificateError(WellposedError, RuntimeError):
    """Something cannot be proved of the weights as stored, or a claim does not hold; the message says which part fails."""


class GuaranteeError(CertificateError, ValueError):
    """The weights, as they are stored, do not satisfy the condition that the guarantee rests on."""


class NotConvergedWarning(UserWarning):
    """A solve ended without reaching its tolerance, and the caller asked for a warning or for a radius, which is then zero."""


class OwnFileWarning(UserWarning):
    """A file of a known data set is not the published one: results are about the file that is there."""


@contextlib.contextmanager
def failing_as_unprovable(what: str) -> Iterator[None]:
    """Turn other exceptions than this library's into a `CertificateError`: parts that do not fit together fail in many ways.

    Args:
        what: fails, the message's beginning.
    """
    try:
        yield
    except WellposedError:
        raise
    except Exception as error:
        first = str(error).partition("\n")[0][:200]
        raise CertificateError(f"{what} ({type(error).__name__}: {first})") from error


def require(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or raise an error that names the extra which installs it.

    Args:
        module: dotted module name.
        extra: the extra of this package that provides it.

    Raises:
        MissingExtraError: the module is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name.partition(".")[0]):
            raise
        raise MissingExtraError(
            f"this needs the package {module.partition('.')[0]!r}, which is not installed: "
            f"pip install 'wellposed[{extra}]'"
        ) from error


def check(condition: bool, argument: str, value: object, mend: str) -> None:
    """Raise an `InputError` that names the argument, its value and the mend unless the condition holds."""
    if not condition:
        raise InputError(f"{argument}={shown(value)}: {mend}")


# Objects, in lists too, that have no text of their own: their kind says what their place in memory does not.
_UNTOLD = re.compile(r"<(?:\w+\.)*(\w+) object at 0x[0-9a-f]+>")


def shown(value: object) -> str:
    """A value as messages show it: arrays by their shape, long texts cut, objects without a text of their own by their kind."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and math.prod(shape) != 1:
        return f"{type(value).__name__} of shape {tuple(shape)}"
    text = repr(value)
    if isinstance(value, type) or callable(value) or text.startswith("<"):
        return str(getattr(value, "__name__", type(value).__name__))
    text = _UNTOLD.sub(r"\1", text)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def check_number(argument: str, value: object, low: float, high: float, mend: str) -> None:
    """Raise an `InputError` unless the value is a number strictly between two others."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    check(is_number and low < float(value) < high, argument, value, mend)  # type: ignore[arg-type]


def check_fields(record: Any, *, finite: bool = True) -> None:
    """Raise an `InputError` that names the first field of a dataclass whose value is not of the field's type.

    Args:
        record: the dataclass.
        finite: whether numbers must be finite; NaN is never allowed.
    """
    hints = field_kinds(record.__class__)
    for entry in dataclasses.fields(record):
        value, hint = getattr(record, entry.name), hints[entry.name]
        check(_fits(value, hint, finite), entry.name, value, f"must be {_named(hint)}{', finite' if finite else ''}")
        for part in value if isinstance(value, list | tuple) else (value,):
            _check_size(entry.name, part)


def _fits(value: Any, hint: Any, finite: bool) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part, finite) for part in arguments)
    if origin is Literal:
        return value in arguments
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(key, arguments[0], finite) and _fits(part, arguments[1], finite) for key, part in value.items()
        )
    if origin in (list, tuple, Sequence):
        if not isinstance(value, list | tuple):
            return False
        fixed = origin is tuple and Ellipsis not in arguments
        kinds = arguments if fixed else arguments[:1] * len(value)
        return len(kinds) == len(value) and all(map(_fits, value, kinds, [finite] * len(value)))
    if hint is float:
        good = isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
        return good and (math.isfinite(value) or not finite)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is bool:
        return isinstance(value, bool)
    if hint is str:
        return isinstance(value, str)
    return value is None if hint is types.NoneType else True


def _named(hint: Any) -> str:
    """A type in words."""
    plain: dict[Any, str] = {
        float: "a number",
        int: "an integer",
        bool: "True or False",
        str: "text",
        types.NoneType: "None",
    }
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_named(part) for part in get_args(hint))
    if get_origin(hint) is Callable:
        return "a function"
    if get_origin(hint) is tuple and get_args(hint)[0] in plain:
        count = "" if Ellipsis in get_args(hint) else f" of {len(get_args(hint))}"
        return f"a tuple{count}, each {_named(get_args(hint)[0])}"
    if inspect.isclass(hint) and hint not in plain:
        return f"an instance of {hint.__name__}"
    return plain.get(hint, str(hint).replace("typing.", ""))


def choices(argument: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise an `InputError` with the nearest suggestion unless the value is one of those allowed."""
    if value not in allowed:
        raise InputError(
            f"{argument}={shown(value)}: expected one of {', '.join(map(repr, allowed))}{_nearest(value, allowed)}"
        )


def checked_options(function: Callable[P, R]) -> Callable[P, R]:
    """Turn an unknown keyword into an `OptionError` with a suggestion, and an argument of another kind into an `InputError`.

    Kinds are those of annotations: numbers, truth values, texts and tuples of these are checked before the call; other classes
    only where it fails with an error of another library.
    """
    signature = inspect.signature(function)
    parameters = signature.parameters.values()
    named = tuple(p.name for p in parameters if p.kind is not inspect.Parameter.VAR_KEYWORD and p.name != "self")
    rest = next((p.name for p in parameters if p.kind is inspect.Parameter.VAR_KEYWORD), None)
    owner = function.__qualname__.removesuffix(".__init__")
    places = tuple(p.name for p in parameters if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD)

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        names = named if rest is None else (*named, *_typed_keys(function, rest))
        for name in kwargs:
            if name not in names:
                raise OptionError(f"{owner} has no option {name!r}; it has {', '.join(names)}{_nearest(name, names)}")
        hints = _kinds(function, rest)
        for name, value in (*zip(places, args, strict=False), *kwargs.items()):
            if name in hints:
                check_kind(name, value, hints[name])
        try:
            return function(*args, **kwargs)
        except WellposedError:
            raise
        except Exception as error:  # often of a library that was handed an argument of another class
            for name, value in (*zip(places, args, strict=False), *kwargs.items()):
                if name in hints and not _is_instance(value, hints[name]):
                    raise InputError(f"{name}={shown(value)}: must be {_named(hints[name])}") from error
            raise

    return wrapper


def _is_instance(value: Any, hint: Any) -> bool:
    """Whether a value is of the class of an annotation; what is no class fits everything."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_is_instance(value, part) for part in get_args(hint))
    known = hint if origin is None else origin
    return isinstance(value, known) if inspect.isclass(known) and known is not float else True


@functools.cache
def _typed_keys(function: Callable[..., object], rest: str) -> tuple[str, ...]:
    """Keys of the ``TypedDict`` that a function unpacks its further keywords into."""
    (typed,) = get_args(get_type_hints(function, include_extras=True)[rest])
    return tuple(get_type_hints(typed))


@functools.cache
def _kinds(function: Callable[..., object], rest: str | None) -> dict[str, Any]:
    """Annotations of the arguments of a function, as far as they can be had while it runs."""
    try:
        found = get_type_hints(function, include_extras=True)
    except NameError:  # of an import for annotations alone
        return {}
    return {**(get_type_hints(get_args(found[rest])[0]) if rest is not None else {}), **found}


@functools.cache
def field_kinds(cls: type) -> dict[str, Any]:
    """Annotations of the fields of a class, which take long to work out."""
    return get_type_hints(cls)


def check_kind(argument: str, value: object, hint: Any) -> None:
    """Raise an `InputError` if an argument is not of the kind of its annotation.

    Args:
        argument: its name.
        value: what was given.
        hint: the annotation; kinds other than numbers, truth values, texts, None, classes of this library,
            what is called, and tuples of these fit everything.
    """
    if not _is_kind(value, hint):  # naming kinds takes longer than telling them
        check(False, argument, value, f"must be {_named(hint)}")
    _check_size(argument, value)


def _check_size(argument: str, value: object) -> None:
    if isinstance(value, Integral):
        check(abs(int(value)) < 2**63, argument, value, "is larger than any size or number here can be")


def check_class(argument: str, value: object, kind: type, mend: str) -> None:
    """Raise an `InputError` unless an argument is of a class."""
    check(_is_instance(value, kind), argument, value, mend)


def _is_kind(value: Any, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_is_kind(value, part) for part in arguments)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if Ellipsis in arguments else arguments
        return len(kinds) == len(value) and all(map(_is_kind, value, kinds))
    if origin is tuple:
        return False
    if hint in (int, float):
        number = Real if hint is float else Integral
        single = getattr(value, "shape", None) == () and callable(getattr(value, "item", None))
        plain = value.item() if single else value
        return isinstance(plain, number) and not isinstance(value, bool) and plain == plain  # NaN is no number
    if hint is bool:
        return isinstance(value, bool) or str(getattr(value, "dtype", "")) == "bool"
    return (
        _is_instance(value, hint)
        if hint in (str, types.NoneType) or _is_own(hint if origin is None else origin)
        else True
    )


def _is_own(kind: Any) -> bool:
    """Whether nothing else stands in for a class: for one of this library, but for protocols; for what is called."""
    own = (
        inspect.isclass(kind) and kind.__module__.startswith("wellposed.") and not getattr(kind, "_is_protocol", False)
    )
    return own or kind is Callable


def checked_fields(cls: type[R]) -> type[R]:
    """Class decorator for dataclasses: an unknown field is an `OptionError` with a suggestion."""
    setattr(cls, "__init__", checked_options(cls.__init__))  # noqa: B010 - mypy forbids the plain assignment
    return cls


def _nearest(name: str, allowed: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(str(name), allowed, n=1)
    return f". Did you mean {close[0]!r}?" if close else "."
