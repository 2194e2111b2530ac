"""Changes of files that a run reads; each function returns one that undoes its change."""

import json
import os
import shutil


def _changed(file, change):
    """Change a file. Undoing this gives it the former bytes and time."""
    content, state = file.read_bytes(), file.stat()
    change(content)

    def undo():
        if file.is_fifo():
            file.unlink()
        with file.open("r+b" if file.exists() else "wb") as opened:
            opened.write(content)
            opened.truncate()
        os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))

    return undo


def overwritten(file):
    def change(content):
        with file.open("r+b") as opened:
            opened.seek(len(content) // 2)
            opened.write(bytes(value ^ 1 for value in content[len(content) // 2 :]))

    return _changed(file, change)


def restored(file):
    overwritten(file)()
    return lambda: None


def touched(file):
    os.utime(file)
    return lambda: None


def cut(file):
    return _changed(file, lambda content: os.truncate(file, len(content) // 2))


def emptied(file):
    return _changed(file, lambda _: os.truncate(file, 0))


def deleted(file):
    return _changed(file, lambda _: file.unlink())


def renamed_over(file):
    """Put another file in its place, and back, by renames; the file itself does not change."""
    aside = file.with_suffix(".aside")
    os.link(file, aside)
    other = file.with_suffix(".other")
    other.write_bytes(file.read_bytes()[::-1])
    os.replace(other, file)
    return lambda: os.replace(aside, file)


OF_A_FILE = [overwritten, restored, touched, cut, emptied, deleted, renamed_over]


def swapped(store):
    """Put another store of the same sizes in its place, by two renames."""
    aside, other = store.with_name("aside"), store.with_name("other")
    shutil.copytree(store, other, dirs_exist_ok=True)
    for file in other.glob("train-*"):
        overwritten(file)
    store.rename(aside)
    other.rename(store)

    def undo():
        store.rename(other)
        aside.rename(store)

    return undo


def given_another_manifest(store):
    """Let the manifest say that the shards have other sizes."""
    file = store / "manifest.json"

    def change(content):
        manifest = json.loads(content)
        for shard in manifest["shards"]:
            shard["tokens"] = 100
        file.write_text(json.dumps(manifest))

    return _changed(file, change)


OF_A_STORE = [swapped, given_another_manifest]
