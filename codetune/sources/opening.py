"""From what the user typed to a `Source`: a git repository, a folder or an archive."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from codetune.artifacts import home
from codetune.errors import SourceError, UnsafeSourceError, nearest
from codetune.progress import Progress
from codetune.records import Repository
from codetune.sources import archive, clone, folder, history, identity
from codetune.sources.commits import read_changes
from codetune.sources.git import Git, GitError
from codetune.sources.ignore import Ignored
from codetune.sources.items import Change, Item, Selection, Source
from codetune.sources.repository import Local, find_repository, uncommitted

if TYPE_CHECKING:
    from codetune.sources.config import SourceOptions


UPLOADS = "uploads"  # the folder of the home that holds what users have sent
_MOST_NAMED = 10  # branches


def open_source(
    source: str,
    options: SourceOptions,
    progress: Progress,
    *,
    allow_local: bool,
    sites: Collection[str] | None,
) -> Source:
    """Find out what `source` is, and which version of it; `sites` as in `collect`.

    Raises:
        SourceError: it does not exist, is empty, or cannot be read.
        UnsafeSourceError: reading it would be an attack, or it is local and that is forbidden.
    """
    if not source.strip():  # Path("") would be the current folder
        raise SourceError(
            "The source is empty.", advice='Pass a path or an address; "." is the current folder.'
        )
    is_url = source.lower().startswith("file:")
    if not allow_local and (is_url or not identity.looks_remote(source)):
        raise UnsafeSourceError(
            "Only https://, ssh:// and git:// addresses can be used here.",
            advice="Paths of the server itself are not sources.",
        )
    if allow_local:
        path = Path(identity.parse_address(source).path if is_url else source).expanduser()
        if path.exists() and not source.startswith("-"):
            return _open_local(source, path, options, progress)
        if is_url or not identity.looks_remote(source):
            if source.startswith("-"):
                identity.parse_address(source)
            raise SourceError(
                f"{source} does not exist.", advice="Pass a path, an address or an archive."
            )
    address = identity.parse_address(source)
    git = clone.fetch(address, progress, timeout=options.timeout, sites=sites)
    return _open_git(git, address.name, address.url, "", options, head=clone.HEAD)


def _open_local(source: str, path: Path, options: SourceOptions, progress: Progress) -> Source:
    shown = identity.without_credentials(source)
    if path.is_file():
        if not archive.is_archive(path):
            raise SourceError(
                f"{source} is a file, but no archive.",
                advice="Pass a git repository, a folder, or a zip or tar archive.",
            )
        return _open_archive(path, shown, options)
    if not path.is_dir():
        raise SourceError(f"{source} is neither a folder nor an archive.")
    found = None if _was_sent(path) else find_repository(path)
    if found is None:
        return _open_folder(path.resolve(), shown, options)
    opened = _open_git(found.git, found.name, shown, found.prefix, options)
    if found.prefix and opened.total == 0:
        progress.say(f"{source} is not tracked by the repository around it: read as a folder.")
        return _open_folder(path.resolve(), shown, options)
    _mention_uncommitted(found, progress)
    return opened


def _was_sent(path: Path) -> bool:
    """Whether a user has sent it: such a folder is never a repository, whatever lies in it.

    Git goes where a repository's own files point it (`.git`, `commondir`, `objects/info`), which
    may be anywhere on this machine; and a repository around the home is not the user's.
    """
    return path.resolve().is_relative_to((home() / UPLOADS).resolve())


def _mention_uncommitted(local: Local, progress: Progress) -> None:
    try:
        count = uncommitted(local)
    except SourceError as error:
        progress.say(f"Could not check for uncommitted changes: {error.message}")
        return
    if count:
        files = "1 uncommitted file" if count == 1 else f"{count} uncommitted files"
        progress.say(f"{files}: the last commit is read, not the working tree.")


def _open_git(
    git: Git, name: str, location: str, prefix: str, options: SourceOptions, head: str = "HEAD"
) -> Source:
    present = git.commit(options.ref or head)
    if present is None:
        raise _no_commit(git, location, options.ref)
    try:
        cutoff = history.choose_cutoff(git, present, options.cutoff)
        found = history.versions(git, present, cutoff, prefix)
    except GitError as error:
        raise SourceError(
            f"{location}: {error.message}",
            advice="`git fsck` says what the repository lacks; a new clone of it is whole.",
        ) from error
    selection = Selection(options)
    items = [selection.judge(_item(version)) for version in found]

    def read() -> Iterator[tuple[Item, bytes]]:
        wanted = (v.entry.oid for v, item in zip(found, items, strict=True) if not item.reason)
        contents = git.contents(wanted)
        for item in items:
            content = b"" if item.reason else next(contents)
            if content is None:
                yield item.skip("missing", "not in this (partial) copy"), b""
            else:
                yield item, content

    repository = Repository(name, location, "git", commit=present, cutoff=cutoff)

    def changes(limit: int) -> Iterator[Change]:
        return read_changes(git, cutoff or present, prefix, selection, limit)

    return Source(repository, f"{present} {cutoff} {prefix}", len(items), read, changes)


def _no_commit(git: Git, location: str, ref: str | None) -> SourceError:
    if ref is None and (branches := git.branches()):
        return SourceError(
            f"{location} has commits, but its HEAD names a branch that does not exist.",
            advice=f"Name one with sources.ref: {', '.join(branches[:_MOST_NAMED])}.",
        )
    if ref is None:
        return SourceError(
            f"{location} is an empty repository: it has no commit yet.",
            advice="Commit something first, or delete its .git to read it as a plain folder.",
        )
    names = git.run("for-each-ref", "--format=%(refname:short)", "--count=200").split()
    return SourceError(
        f"'{ref}' is not a branch, tag or commit of {location}.",
        advice=nearest(ref, names) if len(names) < 20 else "`git log` and `git branch` list them.",
    )


def _item(version: history.Version) -> Item:
    entry = version.entry
    reason = detail = ""
    if entry.mode == "160000":
        reason, detail = "submodule", f"at commit {entry.oid}"
    elif entry.mode == "120000":
        reason, detail = "symlink", "a link in the repository"
    return Item(
        entry.path,
        entry.size,
        reason,
        detail,
        version.in_past,
        version.in_present,
        version.previous_path,
    )


def _open_folder(root: Path, location: str, options: SourceOptions) -> Source:
    selection = Selection(options)
    items = [selection.judge(_found(file)) for file in folder.walk(root)]
    if not items:
        raise SourceError(f"{location} holds no files.", advice="Pass a folder with source code.")

    def read() -> Iterator[tuple[Item, bytes]]:
        for item in items:
            if item.reason:
                yield item, b""
                continue
            try:
                # A file that grows meanwhile cannot fill the memory.
                yield item, folder.read_regular(root / item.path, options.largest_file)
            except OSError as error:
                yield item.skip("unreadable", str(error.strerror or error)), b""

    version = folder.digest_of_files(root, [item.path for item in items if not item.reason])
    return Source(Repository(root.name or "folder", location, "folder"), version, len(items), read)


def _found(file: folder.Found) -> Item:
    return Item(file.path, file.size, file.reason, file.detail, previous_path=file.path)


def _open_archive(path: Path, location: str, options: SourceOptions) -> Source:
    """Two passes: the first meets every name and .gitignore, the second reads what is wanted."""
    ignored, names, total = Ignored(), [], 0
    for found, read_member in archive.members(path):
        total += 1
        if not found.reason:
            names.append(found.path)
            if found.path.rpartition("/")[2] == ".gitignore":
                text = read_member(folder.LARGEST_IGNORE_FILE).decode("utf-8", "replace")
                ignored.learn(found.path.removesuffix(".gitignore"), text)
    if not total:
        raise SourceError(f"{location} is an empty archive.", advice="Pass one with source code.")
    selection, top = Selection(options), _common_folder(names)

    def read() -> Iterator[tuple[Item, bytes]]:
        for found, read_member in archive.members(path):
            item = _found(found)
            if not item.reason and found.path in ignored:
                item = item.skip("ignored", "named by .gitignore")
            short = item.path.removeprefix(top)
            item = selection.judge(
                Item(short, item.size, item.reason, item.detail, previous_path=short)
            )
            yield item, b"" if item.reason else read_member(options.largest_file)

    stem = path.name.partition(".")[0] or path.name
    repository = Repository(top.rstrip("/") or stem, location, "archive")
    return Source(repository, archive.digest_of_archive(path), total, read)


def _common_folder(names: list[str]) -> str:
    """The one folder that everything lies in ("name-1.0/"), or ""."""
    first = {name.partition("/")[0] for name in names}
    if len(first) == 1 and all("/" in name for name in names):
        return f"{first.pop()}/"
    return ""
