"""The contents of messages under way, as files beside the SuperLink's database instead of rows in it.

::

    superlink/objects/DIGEST    one object: a chunk of an array, or the frame around some; named by its SHA-256

Flower 1.41 keeps them in SQLite, where each is written twice (log and database), read page by page, and held under the
one write lock; and the database never shrinks. Here the database still says which objects there are, to which runs
they belong and which have arrived; a file lies there before the database says so, and goes when its row goes.

Files are not flushed: a process that is killed loses nothing of them, and after a power cut the run repeats its round
anyway. So a file that this process did not write itself is digested again before it is given out.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from pathlib import Path
from typing import Any

from flwr.supercore.inflatable.inflatable_utils import validate_object_content
from flwr.supercore.object_store import object_store_factory
from flwr.supercore.object_store.object_store import NoObjectInStoreError
from flwr.supercore.object_store.sql_object_store import SqlObjectStore
from flwr.supercore.state.schema.objectstore_models import StoredObject
from sqlalchemy import select, update

FOLDER = "objects"
_NAME = re.compile(r"[0-9a-f]{64}")


def keep_objects_in_files() -> None:
    """Let Flower's factory make ``FileObjectStore`` from now on in this process."""
    setattr(object_store_factory, "SqlObjectStore", FileObjectStore)  # noqa: B010 - Flower has no setting for it


class FileObjectStore(SqlObjectStore):
    """Flower's store with contents in a folder beside the database file; OSError passes through."""

    def __init__(self, database_path: str, verify: bool = True) -> None:
        super().__init__(database_path, verify)
        self._folder = Path(database_path).resolve().with_name(FOLDER)
        self._folder.mkdir(mode=0o700, exist_ok=True)
        self._sound: set[str] = set()  # written or digested by this process

    def initialize(self, log_queries: bool = False, **engine_kwargs: Any) -> list[str]:
        """Open the database, and remove the files of objects that it does not know any more."""
        found = super().initialize(log_queries, **engine_kwargs)
        with self.session() as session:
            known = set(session.scalars(select(StoredObject.object_id)))
        for path in self._folder.iterdir():
            if path.name not in known:
                path.unlink()
        return found

    def put(self, object_id: str, object_content: bytes) -> None:
        """Keep what was announced. ValueError when it is another, NoObjectInStoreError when it was not."""
        if hashlib.sha256(object_content).hexdigest() != object_id:
            raise ValueError(f"object {object_id} does not match its content")
        validate_object_content(content=object_content)
        with self.session() as session:
            row = StoredObject.object_id == object_id
            arrives = update(StoredObject).where(row, StoredObject.is_available == 0).values(is_available=1)
            if session.scalar(arrives.returning(StoredObject.object_id)):
                self._path(object_id).write_bytes(object_content)
                self._sound.add(object_id)
            elif session.scalar(select(StoredObject.object_id).where(row)) is None:
                raise NoObjectInStoreError(f"object {object_id} was not announced")

    def get(self, object_id: str) -> bytes | None:
        """The content; empty while it has not arrived, None when there is none or its file does not hold."""
        with self.session() as session:
            available = session.scalar(select(StoredObject.is_available).where(StoredObject.object_id == object_id))
        if not available:
            return None if available is None else b""
        with contextlib.suppress(FileNotFoundError):
            content = self._path(object_id).read_bytes()
            if object_id in self._sound or hashlib.sha256(content).hexdigest() == object_id:
                self._sound.add(object_id)
                return content
        return None

    def delete(self, object_id: str) -> None:
        """Remove an object, and of those under it what nothing else holds. Hospitals name it: it may be no digest."""
        super().delete(object_id)  # comes back here for each object under it
        if _NAME.fullmatch(object_id) and object_id not in self:
            self._forget(object_id)

    def clear(self) -> None:
        """Remove everything."""
        super().clear()
        for path in self._folder.iterdir():
            self._forget(path.name)

    def _forget(self, object_id: str) -> None:
        self._sound.discard(object_id)
        self._path(object_id).unlink(missing_ok=True)

    def _path(self, object_id: str) -> Path:
        return self._folder / object_id
