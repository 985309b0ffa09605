"""What the doctor finds: one line each."""

from enum import StrEnum

from msgspec import Struct


class Status(StrEnum):
    """How it stands: `unsure` is worth a look, `failed` is broken or will be."""

    OK = "ok"
    UNSURE = "unsure"
    FAILED = "failed"


class Check(Struct, frozen=True):
    """One thing that was looked at: what was found, and what to do about it where that is not fine."""

    name: str
    status: Status
    found: str
    cure: str = ""


def ok(name: str, found: str) -> Check:
    """Return a check that found all well."""
    return Check(name, Status.OK, found)


def unsure(name: str, found: str, cure: str) -> Check:
    """Return a check that found what may be meant, or may not."""
    return Check(name, Status.UNSURE, found, cure)


def failed(name: str, found: str, cure: str) -> Check:
    """Return a check that found what is wrong."""
    return Check(name, Status.FAILED, found, cure)
