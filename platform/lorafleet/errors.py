"""Every error a user can cause or meet.

    LorafleetError(Exception)          exit code
      ManifestError(ValueError)           2      the manifest says something impossible
      SettingsError(ValueError)           2      an environment variable does
      DataError(ValueError)               2      images or captions cannot be used
      CaptionerError(ValueError)          2      nothing here captions photographs, or not as it should
      BaseModelError(ValueError)          2      the base is missing or not of a known family
      BundleError(ValueError)             2      an adapter on disk cannot be trusted or does not fit
        WrongBaseError                    2      ... it is sound, but was made for another base
      RequestError(ValueError)            2      a generation request is out of bounds
      NotFoundError(LookupError)          3      no such submission, job, adapter or version
        AmbiguousError                    3      ... for several begin so
      UnreachableError(ConnectionError)   4      Ray, MLflow or the server does not answer
      BusyError(RuntimeError)             4      the engine's queue is full, or it is shutting down
      NonFiniteError(ArithmeticError)     1      a loss or an image became NaN or infinite

A message gives the value, what is allowed, and the remedy, in one line; that of a manifest has a line for each mistake.
All of them pickle: they take one string.
"""

from __future__ import annotations

from typing import ClassVar


class LorafleetError(Exception):
    """The base of every error that lorafleet raises on purpose."""

    exit_code: ClassVar[int] = 1


class ManifestError(LorafleetError, ValueError):
    """The manifest or recipe says something impossible or unknown."""

    exit_code = 2


class SettingsError(LorafleetError, ValueError):
    """An environment variable, or a path made of one, says something impossible."""

    exit_code = 2


class DataError(LorafleetError, ValueError):
    """A subject's images or captions cannot be used."""

    exit_code = 2


class CaptionerError(LorafleetError, ValueError):
    """A captioner is not installed, lacks its weights, or does not do what captioners do."""

    exit_code = 2


class BaseModelError(LorafleetError, ValueError):
    """The base model is missing, incomplete, or of no known family."""

    exit_code = 2


class BundleError(LorafleetError, ValueError):
    """An adapter bundle is incomplete, altered, or made for another base."""

    exit_code = 2


class WrongBaseError(BundleError):
    """An adapter bundle is sound, but was made for another base."""


class RequestError(LorafleetError, ValueError):
    """A generation request is out of bounds."""

    exit_code = 2


class NotFoundError(LorafleetError, LookupError):
    """There is no such submission, job, adapter or version."""

    exit_code = 3


class AmbiguousError(NotFoundError):
    """A name or the beginning of an id fits several things."""


class UnreachableError(LorafleetError, ConnectionError):
    """Ray, MLflow or the server does not answer."""

    exit_code = 4


class BusyError(LorafleetError, RuntimeError):
    """The engine's queue is full or the engine is shutting down; try again later."""

    exit_code = 4
    retry_after_s: float = 5.0
    """When; an instance may know better."""


class NonFiniteError(LorafleetError, ArithmeticError):
    """A loss, gradient or image became NaN or infinite."""


def first_line(problem: BaseException, longest: int | None = None) -> str:
    """The first line of an exception's message, cut to `longest` characters; its class's name if it has none."""
    return (str(problem).strip().splitlines() or [type(problem).__name__])[0][:longest]


def summary(problem: BaseException) -> str:
    """An exception's class and the first line of its message; the class alone if it has none."""
    line = first_line(problem)
    name = type(problem).__name__
    return name if line == name else f"{name}: {line}"
