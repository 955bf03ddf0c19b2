"""Two releases of a package, ready to be measured: fetched, laid out, the tests' needs pinned."""

from __future__ import annotations

import re
import tarfile
import time
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from m2gym.core.task import PreparedTask
from m2gym.tasksets.registry.cache import Cache, Progress, silent
from m2gym.tasksets.registry.fetch import RegistryFile, fetch, pin
from m2gym.tasksets.registry.resolve import needs_of, resolve
from m2gym.tasksets.registry.sdist import PackageRejectedError
from m2gym.tasksets.swe_repo.recipe import GRADE_SECONDS
from m2gym.tasksets.swe_repo.repository import Repository, build_repository, prepare_to_measure

DAY = 86_400


@dataclass(frozen=True)
class Pair:
    """The older release's tree under the newer one's tests; the step between them is the fix."""

    old: RegistryFile
    new: RegistryFile
    requires: tuple[str | RegistryFile, ...]
    built: Repository
    prepared: PreparedTask

    @property
    def name(self) -> str:
        """``project-version`` of the newer release: what the tasks are named after."""
        return f"{self.new.project}-{self.new.version}"

    @property
    def green(self) -> str:
        """The name of the list of tests that pass with the fix."""
        return f"{self.new.project}-{self.old.version}-{self.new.version}"


def open_pair(
    package: str,
    old: str,
    new: str,
    cache: Cache,
    *,
    requires: Sequence[str | RegistryFile] | None = None,
    portable: bool = False,
    progress: Progress = silent,
) -> Pair:
    """Two releases of the registry, ready to be measured.

    Raises:
        DownloadError: a file is not to be had.
        PackageRejectedError: a release has no tests or no import package or is no good archive,
            the two have the same source, or what the tests need cannot be resolved.
    """
    progress(f"{package}: fetching {old} and {new}", 0, 1)
    older, newer = (pin(package, version, cache=cache) for version in (old, new))
    return pair_of(older, newer, cache, requires=requires, portable=portable, progress=progress)


def pair_of(
    old: RegistryFile,
    new: RegistryFile,
    cache: Cache,
    *,
    requires: Sequence[str | RegistryFile] | None = None,
    portable: bool = False,
    progress: Progress = silent,
) -> Pair:
    """As `open_pair`, of pinned archives."""
    if requires is None:
        requires = requirements(new, cache, portable=portable, progress=progress)
    built = build_repository(old, new, (), (), cache, progress)
    prepared = prepare_to_measure(new, built, requires, GRADE_SECONDS, cache, progress)
    return Pair(old, new, tuple(requires), built, prepared)


def requirements(
    release: RegistryFile, cache: Cache, *, portable: bool = False, progress: Progress = silent
) -> tuple[RegistryFile, ...]:
    """What a release's tests need, of the time of the release: newer files may break old tests.

    Where the index does not say when files came, or nothing of that time fits this interpreter,
    the newest are taken, and ``progress`` is told so.

    Raises:
        PackageRejectedError: they cannot be resolved at all.
    """
    wanted = needs_of(release, cache)
    if not wanted:
        return ()
    archive = fetch([release], cache)[release.filename]
    before = time.strftime("%Y-%m-%d", time.gmtime(made(archive, release.filename) + 2 * DAY))
    try:
        return resolve(wanted, cache, portable=portable, before=before)
    except PackageRejectedError:
        progress(
            f"{release.filename}: its needs as of {before} do not resolve, taking newest", 0, 1
        )
        return resolve(wanted, cache, portable=portable)


def made(archive: Path, name: str) -> float:
    """When a source archive was made: the latest time of a member, seconds since 1970.

    Raises:
        PackageRejectedError: it cannot be read.
    """
    try:
        if name.endswith(".zip"):
            with zipfile.ZipFile(archive) as zipped:
                times = [time.mktime((*i.date_time, 0, 0, -1)) for i in zipped.infolist()]
        else:
            with tarfile.open(archive) as tar:
                times = [member.mtime for member in tar]
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise PackageRejectedError(f"{name} is not a readable archive: {error}") from error
    return max((t for t in times if t > 0), default=time.time())


def moving(ids: Iterable[str], now: float | None = None) -> set[str]:
    """Ids that hold this year: parameters made from the clock, gone tomorrow or next year.

    >>> sorted(moving(["t[2031-02-01]", "t[12031]", "t[1999]"], now=1_930_000_000))
    ['t[2031-02-01]']
    """
    year = time.gmtime(now).tm_year
    return {test for test in ids if re.search(rf"(?<!\d){year}(?!\d)", test)}
