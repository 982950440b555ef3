"""Why a ledger cannot be used or written."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from microchain.consensus.types import ProtocolError

__all__ = ["LedgerConflict", "LedgerError", "LedgerFull", "damaged", "decoding", "translated"]

_MEND = "keep the file for inspection and start this validator with an empty data directory"


class LedgerError(RuntimeError):
    """The ledger cannot be opened, read or written; the message says why and what to do."""


class LedgerConflict(LedgerError):
    """A record contradicts what the ledger holds: a second own vote, a replaced finalized block."""


class LedgerFull(LedgerError):
    """The disk (or a quota) is full. Nothing of the refused records was stored; the ledger stays usable."""


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what SQLite and the file system raise into a LedgerError that names the file and the way out."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translate(path, error) from error
    except UnicodeDecodeError as error:
        # SQLite quotes a damaged schema in its message, and Python cannot read that.
        raise damaged(path, str(error)) from error
    except OSError as error:
        kind = LedgerFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else LedgerError
        raise kind(f"{path}: {error.strerror}; look at its directory's rights and free space") from error


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """As `translated`, where stored values are read: one that has not the form it was written in means damage."""
    with translated(path):
        try:
            yield
        except (TypeError, ValueError, ArithmeticError, LookupError, msgspec.MsgspecError, ProtocolError) as error:
            raise damaged(path, f"a stored value is no valid record: {error}") from error


def damaged(path: Path, what: str) -> LedgerError:
    """Return the error that says the file's content is not what was written."""
    return LedgerError(f"{path}: the ledger is damaged ({what}); {_MEND}")


def _translate(path: Path, error: sqlite3.Error) -> LedgerError:
    name: str = getattr(error, "sqlite_errorname", "") or type(error).__name__
    if name == "SQLITE_FULL":
        return LedgerFull(f"{path}: the disk is full ({error}); free some space, then start the node again")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "malformed" in str(error):
        return damaged(path, str(error))
    if name.startswith("SQLITE_IOERR"):
        return LedgerError(f"{path}: the disk refuses to read or write ({name}); look at its health and at size limits")
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return LedgerError(f"{path}: the ledger cannot be opened ({error}); look at its and its directory's rights")
    return LedgerError(f"{path}: SQLite cannot use the ledger ({name}: {error})")
