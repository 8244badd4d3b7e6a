"""WebDataset: tar shards, each sample a scan, its label map and its record under one key."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import ClassVar

from medidiff.case import MARK, Case, name_of
from medidiff.errors import InputError
from medidiff.export.layout import FileGroup, NiftiLayout
from medidiff.io.files.atomic import make_folder, write_file

__all__ = ["PER_SHARD", "WebDataset", "members"]

PER_SHARD = 32
"""Cases of a shard; which shard a case is in follows from its number."""


class WebDataset(NiftiLayout):
    """``shards/000000.tar`` and so on; until the data set is whole, its parts lie in a hidden folder."""

    name = "webdataset"
    image_path = ".parts/{name}.image.nii.gz"
    labels_path = ".parts/{name}.labels.nii.gz"
    record_path = ".parts/{name}.json"
    scratch: ClassVar[str] = ".parts"
    shard_path: ClassVar[str] = "shards/{shard:06d}.tar"

    def columns(self, number: int) -> Mapping[str, str]:
        """See `Layout`."""
        return {"case": name_of(number), "shard": self._shard(number)}

    def _shard(self, number: int) -> str:
        return self.shard_path.format(shard=number // PER_SHARD)

    def parts(self, number: int) -> tuple[str, ...]:
        """Names of the members of a case, in order."""
        files = (*self.case_files(number).values(), self.path(self.record_path, number))
        return tuple(path.removeprefix(".parts/") for path in files)

    def finish(self, numbers: Sequence[int]) -> None:
        """See `Layout`; takes as much room as the parts once more, until they are removed at the end."""
        super().finish(numbers)
        shards: dict[str, list[int]] = {}
        for number in numbers:
            shards.setdefault(self._shard(number), []).append(number)
        make_folder(self.root / "shards")
        for shard, inside in shards.items():
            write_file(self.root / shard, partial(self._pack, inside))

    def _pack(self, numbers: Sequence[int], path: Path) -> None:
        with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": MARK}) as tar:
            for number in numbers:
                for part in self.parts(number):
                    source = self.root / ".parts" / part
                    info = tarfile.TarInfo(part)  # no owner, no time
                    info.size = source.stat().st_size
                    with source.open("rb") as stream:
                        tar.addfile(info, stream)

    def expected(self, numbers: Sequence[int]) -> Iterator[str]:
        """See `Layout`."""
        yield self.table
        yield from dict.fromkeys(self._shard(number) for number in numbers)

    def groups(self) -> tuple[FileGroup, ...]:
        """See `Layout`."""
        return (FileGroup("shards", "shards/*.tar", "application/x-tar", "scans, label maps and records as tar"),)

    def notes(self) -> str:
        """See `Layout`."""
        keys = "`image.nii.gz`, `labels.nii.gz`" if self.about.label_names else "`image.nii.gz`"
        return (
            f"WebDataset: `webdataset.WebDataset('shards/000000.tar')` gives {keys} and `json` of each case, as bytes."
        )

    def cases(self, numbers: Sequence[int]) -> Iterator[Case]:
        """See `Layout`; each shard is read once, through a folder that holds one case at a time."""
        left = {name_of(number): number for number in numbers}
        for shard in dict.fromkeys(self._shard(number) for number in numbers):
            with tempfile.TemporaryDirectory(prefix="medidiff-") as folder:
                parts = Path(folder) / ".parts"
                parts.mkdir()
                for name, content in members(self.root / shard):
                    number = left.get(name.split(".")[0], -1)
                    if number < 0 or name not in self.parts(number):
                        continue
                    (parts / name).write_bytes(content.read())
                    if name == self.parts(number)[-1]:
                        yield self.read_in(Path(folder), number)
                        del left[name_of(number)]
                        for part in parts.iterdir():
                            part.unlink()
        if left:
            raise InputError("E-DATASET", "a shard that lacks a case", file=next(iter(left)))


def members(path: Path) -> Iterator[tuple[str, io.BufferedReader]]:
    """Name and content of each file in a shard, one after the other.

    Raises:
        InputError: ``E-DATASET``, the shard is damaged, or holds something else than files.
    """
    try:
        with tarfile.open(path, "r|") as tar:
            for info in tar:
                content = tar.extractfile(info) if info.isreg() else None
                if content is None:
                    raise InputError("E-DATASET", "a shard that holds something else than files", file=path.name)
                yield info.name, content  # type: ignore[misc]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError("E-DATASET", "a shard that is damaged", file=path.name) from error
