"""Run by another interpreter, never imported: fetches named files with that interpreter's pip.

Reads ``{"folder": …, "files": [[project, file name, ==version or newest], …]}`` from stdin, writes
one JSON line a file to stdout. Only pip's own finder and downloader are used, with the user's
configuration (index, proxies, certificates, credentials): nothing is built and no code of a
package runs.
"""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

NEWEST = "newest"
SHOWN = 12
"""So many releases are named in an error."""


def choose(candidates: list[Any], name: str) -> Any:
    """The candidate of a name, `None` where there is none; newest means a final release."""
    if name != NEWEST:
        return next((c for c in candidates if wanted(c, name)), None)
    archives = [c for c in candidates if not c.link.is_wheel and not c.link.is_yanked]
    final = [c for c in archives if not c.version.is_prerelease]
    return max(final or archives, key=lambda c: c.version, default=None)


def wanted(candidate: Any, name: str) -> bool:
    """Whether a candidate is the file ``name``, or the source archive of ``==version``."""
    link = candidate.link
    if name.startswith("=="):
        return str(candidate.version) == name[2:] and not link.is_wheel
    return bool(link.filename == name)


def called(project: str, name: str) -> str:
    """What is asked for, as a person would say it."""
    if name == NEWEST:
        return f"the newest release of {project}"
    if name.startswith("=="):
        return f"the source archive of {project} {name[2:]}"
    return f"{name} of {project}"


def absent(project: str, name: str, found: list[Any]) -> str:
    """Why there is nothing to fetch: no such project, no such release, or no source archive."""
    if not found:
        return f"the index lists no files of {project!r}"
    if name.startswith("==") and all(str(c.version) != name[2:] for c in found):
        listed = sorted({c.version for c in found}, reverse=True)
        shown = ", ".join(map(str, listed[:SHOWN])) + (", …" if len(listed) > SHOWN else "")
        return f"the index lists no release {name[2:]} of {project}; it lists {shown}"
    return f"the index lists {len(found)} files of {project}, and not {called(project, name)}"


def main() -> None:
    """Fetch every file into the folder and report ``{"file", "path" | "error"}``."""
    from pip._internal.commands import create_command
    from pip._internal.exceptions import PipError
    from pip._internal.models.format_control import FormatControl
    from pip._internal.network.download import Downloader

    request = json.load(sys.stdin)
    report, sys.stdout = sys.stdout, sys.stderr
    command: Any = create_command("download")
    with command.main_context():
        options, _ = command.parse_args(["--progress-bar", "off", "--quiet"])
        options.format_control = FormatControl()
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session, ignore_requires_python=True)
        download = Downloader(session, "off")
        for project, name in request["files"]:
            answer = {"file": name}
            try:
                found = finder.find_all_candidates(project)
                chosen = choose(found, name)
                link = chosen and chosen.link
                if link is None:
                    answer["error"] = absent(project, name, found)
                elif link.is_file:
                    answer["path"] = f"{request['folder']}/{link.filename}"
                    shutil.copyfile(link.file_path, answer["path"])
                else:
                    answer["path"] = download(link, request["folder"])[0]
            except (PipError, OSError) as error:
                answer["error"] = (
                    f"{called(project, name)} could not be fetched: {type(error).__name__}: {error}"
                )
            print(json.dumps(answer), file=report, flush=True)


if __name__ == "__main__":
    main()
