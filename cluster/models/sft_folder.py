"""The output folder of ``caravan sft``: the finished model, and until then settings and checkpoints."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from cluster.console import check_empty
from cluster.errors import ConfigError
from cluster.ledger.file_lock import locked
from learner.training.checkpoints import newest_checkpoint, step_of

WORK = "training"
SETTINGS = "settings.json"
LOCK = "lock"
LOG = "sft.log"
LAST_FILE = "config.json"  # no model loads without it, so it is moved last


class SftFolder:
    """``OUT`` of ``caravan sft``: the model's files, the log, and ``training/`` until the model is complete."""

    def __init__(self, out: Path) -> None:
        self.path = out
        self.work = out / WORK  # settings and checkpoints
        self.draft = self.work / "model"
        self.log = out / LOG
        resolved = out.resolve()
        name = f"caravan-sft-{resolved.name[:64]}-{hashlib.sha256(os.fsencode(resolved)).hexdigest()[:12]}"
        self.spare = Path(tempfile.gettempdir()) / name  # for the last checkpoint, if the disk of ``work`` is full

    def check(self, settings: Mapping[str, Any]) -> None:
        """Raise ConfigError if the folder has other content, or a training that was started with other settings."""
        try:
            started = json.loads((self.work / SETTINGS).read_text(encoding="utf-8"))
        except FileNotFoundError:
            check_empty(self.path)
            return
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self.work / SETTINGS} cannot be read ({error}): choose another folder") from None
        if self.newest() is None:
            return  # no step was saved with these settings
        others = [name for name, value in settings.items() if name in started and started[name] != value]
        if others:
            changes = "; ".join(f"{name} was {started[name]} and is {settings[name]}" for name in others)
            raise ConfigError(
                f"{self.path} has a training that was started with other settings ({changes}): repeat those "
                "settings, choose another folder, or delete this one"
            )

    @contextmanager
    def opened(self, settings: Mapping[str, Any]) -> Iterator[None]:
        """Create and lock the folder during the block; delete it afterwards if it has neither checkpoint nor model.

        Raises ConfigError as ``check`` does, for a folder that cannot be written, and for one that another process has locked.
        """
        self.check(settings)
        plain = json.dumps(settings, indent=2)
        busy = ConfigError(f"another `caravan sft` is writing to {self.path}: wait for it, or choose another folder")
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            with locked(self.work / LOCK, busy):
                try:
                    (self.work / SETTINGS).write_text(plain, encoding="utf-8")
                    yield
                finally:
                    if self.work.exists() and self.newest() is None:
                        self._remove()
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written: {error.strerror or error}") from error

    def newest(self) -> Path | None:
        """The newest checkpoint, or None."""
        found = [newest_checkpoint(root) for root in (self.work, *([self.spare] if self._is_own_spare() else []))]
        return max((path for path in found if path), key=step_of, default=None)

    def write_line(self, text: str) -> None:
        """Append a line to the log; a full disk does not end the training."""
        with suppress(OSError), self.log.open("a", encoding="utf-8") as file:
            file.write(f"{text}\n")

    def move_into_place(self) -> None:
        """Move the files of ``draft`` to their place, and delete settings and checkpoints. Raises OSError."""
        for path in sorted(self.draft.iterdir(), key=lambda path: path.name == LAST_FILE):
            target = self.path / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
        shutil.rmtree(self.work)
        if self._is_own_spare():
            shutil.rmtree(self.spare, ignore_errors=True)

    def _is_own_spare(self) -> bool:
        """Return True if the spare folder exists and belongs to this user; every user may write to the temporary folder."""
        return self.spare.is_dir() and not self.spare.is_symlink() and self.spare.stat().st_uid == os.getuid()

    def _remove(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        self.log.unlink(missing_ok=True)
        with suppress(OSError):
            self.path.rmdir()
