"""The exception tree. Every error that a user can cause is one of these; anything else is a bug.

- SsldetError: exit code 1 unless a subclass says otherwise
    - RequestError: the request cannot be carried out as given (exit 2)
        - ConfigError: an option is unknown or out of range
        - UnknownName: no such strategy, data set, backbone, metric
        - SplitError: the labelled / unlabelled split cannot be drawn
        - DataError: data absent, incomplete, or not what it claims to be
            - AbsentData: nothing of a data set is where it was looked for
            - DecodeError: a video or image that does not decode
        - PackError: a packed run that is damaged, of a later version, or holds what no pack holds
        - DetectionsError: a detections file that cannot be scored as it is
    - WeightsError: a weights file that does not fit the network (exit 2)
    - CheckpointError: a checkpoint that belongs to another run or was written by another version
        - DamagedCheckpoint: one that cannot be read, or is not as it was written
    - PluginError: a plugin that is broken, duplicated or incompatible
    - TrainingError: training cannot go on (a loss that is not finite, say)
        - LostRank: one of several processes ended, and this one cannot go on without it
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

WITHOUT_DATA = "Without data this runs now: ssldet run --strategy supervised --dataset synthetic --preset smoke"


class SsldetError(Exception):
    """Root of the tree. `exit_code` is what the command line returns."""

    exit_code = 1


class RequestError(SsldetError):
    exit_code = 2


class ConfigError(RequestError):
    pass


class UnknownName(RequestError):
    """A name that no plugin or option has; says what exists and what was probably meant."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        self.kind, self.name, self.known = kind, name, sorted(known)
        super().__init__(f"unknown {kind} {name!r}{did_you_mean(name, self.known)}")


class SplitError(RequestError):
    pass


class DataError(RequestError):
    pass


class AbsentData(DataError):
    """Ends with the command that runs now, without data."""

    def __init__(self, message: str):
        super().__init__(f"{message}\n{WITHOUT_DATA}")


class DecodeError(DataError):
    pass


class PackError(RequestError):
    pass


class DetectionsError(RequestError):
    pass


class WeightsError(SsldetError):
    exit_code = 2


class CheckpointError(SsldetError):
    pass


class DamagedCheckpoint(CheckpointError):
    pass


class PluginError(SsldetError):
    pass


class TrainingError(SsldetError):
    pass


class LostRank(TrainingError):
    pass


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The tail of an unknown-name message: the nearest name, if any, and what exists."""
    known = list(known)
    return f"{nearest(name, known)} (known: {', '.join(known) or 'none'})"


def nearest(name: str, known: Iterable[str]) -> str:
    """The same where what exists is too much to list: the nearest name, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
