import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from innerloop import files
from innerloop.errors import DataError, ModelFileError, ResourceError, UsageError
from innerloop.storage import manifest as sealed
from toolkit.faults import Faulty, Killed

OLD = {"config.json": b"old", "log.jsonl": b"", "model.safetensors": b"1"}
NEW = {"config.json": b"new", "log.jsonl": b"\n", "model.safetensors": b"22"}


def failing(work: Callable[[], None], error: BaseException, monkeypatch) -> Iterator[int]:
    """Do `work` again and again, failing at its first call, its second, ..., until it comes through."""
    for at in range(1, 200):
        with monkeypatch.context() as patch:
            faulty = Faulty(at, error)
            patch.setattr(files, "os", faulty)
            with contextlib.suppress(ResourceError, Killed):
                work()
        if faulty.calls < at:
            assert at > 5
            return
        yield at
    pytest.fail("the work never came through")


def contents(folder: Path) -> dict[str, bytes]:
    return sealed.read_sealed(folder).contents


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Killed()], ids=["error", "kill"])
def test_a_fault_at_any_call_leaves_the_old_folder_or_the_new_one(tmp_path, monkeypatch, error) -> None:
    folder = tmp_path / "run"
    sealed.write_sealed(folder, OLD, replace=False)
    seen = set()
    for _ in failing(lambda: sealed.write_sealed(folder, NEW, replace=True), error, monkeypatch):
        found = contents(folder)
        assert found in (OLD, NEW)
        seen.add(found["config.json"])
        if isinstance(error, OSError):
            assert folder.is_dir()
            assert not [path for path in tmp_path.iterdir() if ".tmp-" in path.name and any(path.iterdir())]
        sealed.write_sealed(folder, OLD, replace=True)
        assert contents(folder) == OLD
        assert not [path for path in tmp_path.iterdir() if ".old-" in path.name and any(path.iterdir())]
    assert seen == {b"old", b"new"}


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), Killed()], ids=["error", "kill"])
def test_a_fault_at_any_call_leaves_nothing_or_the_first_folder(tmp_path, monkeypatch, error) -> None:
    folder = tmp_path / "made" / "run"

    def write() -> None:
        sealed.write_sealed(folder, NEW, replace=False)

    for _ in failing(write, error, monkeypatch):
        if folder.exists():
            assert contents(folder) == NEW
            for path in folder.iterdir():
                path.unlink()
            folder.rmdir()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Killed()], ids=["error", "kill"])
def test_a_fault_at_any_call_leaves_the_old_file_or_the_new_one(tmp_path, monkeypatch, error) -> None:
    path = tmp_path / "predictions.csv"
    path.write_bytes(b"old")
    for _ in failing(lambda: files.write_bytes(path, b"newer"), error, monkeypatch):
        assert path.read_bytes() in (b"old", b"newer")
        path.write_bytes(b"old")


def test_short_writes_are_continued(tmp_path, monkeypatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda handle, data: write(handle, bytes(data[:3])))
    files.write_bytes(tmp_path / "a", b"0123456789")
    assert (tmp_path / "a").read_bytes() == b"0123456789"


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(tmp_path, umask) -> None:
    before = os.umask(umask)
    try:
        sealed.write_sealed(tmp_path / "run", NEW, replace=False)
        files.write_bytes(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o777 & ~umask
    for path in (*(tmp_path / "run").iterdir(), tmp_path / "file"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask


def foreign_folder(folder: Path) -> None:
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")


def folder_with_another_manifest(folder: Path) -> None:
    folder.mkdir()
    (folder / "manifest.json").write_text('{"name": "a web page"}')


def model_with_a_note(folder: Path) -> None:
    sealed.write_sealed(folder, OLD, replace=False)
    (folder / "notes.txt").write_text("keep")


def model_with_a_folder(folder: Path) -> None:
    sealed.write_sealed(folder, OLD, replace=False)
    (folder / "log.jsonl").unlink()
    (folder / "log.jsonl").mkdir()


def plain_file(folder: Path) -> None:
    folder.write_text("a file")


@pytest.mark.parametrize(
    "make", [foreign_folder, folder_with_another_manifest, model_with_a_note, model_with_a_folder, plain_file]
)
def test_what_is_not_ours_is_never_replaced(tmp_path, make) -> None:
    make(tmp_path / "run")
    before = sorted((path, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*"))
    with pytest.raises(UsageError, match="choose another folder"):
        sealed.write_sealed(tmp_path / "run", NEW, replace=True)
    assert sorted((path, path.is_file() and path.read_bytes()) for path in tmp_path.rglob("*")) == before


def test_a_model_is_replaced_only_when_allowed(tmp_path) -> None:
    sealed.write_sealed(tmp_path / "run", OLD, replace=False)
    with pytest.raises(UsageError, match="holds a model already"):
        sealed.write_sealed(tmp_path / "run", NEW, replace=False)
    assert contents(tmp_path / "run") == OLD
    sealed.write_sealed(tmp_path / "run", NEW, replace=True)
    assert contents(tmp_path / "run") == NEW
    assert os.listdir(tmp_path) == ["run"]


def test_an_empty_folder_is_filled_and_a_link_is_followed(tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    sealed.write_sealed(tmp_path / "link", OLD, replace=False)
    sealed.write_sealed(tmp_path / "link", NEW, replace=True)
    assert (tmp_path / "link").is_symlink()
    assert contents(tmp_path / "real") == NEW


def test_a_folder_replaced_while_it_is_read_is_read_again(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "run"
    sealed.write_sealed(folder, OLD, replace=False)
    read, calls = files.read_bytes, []

    def slow(path: Path, **keywords) -> bytes:
        data = read(path, **keywords)
        if not calls:
            calls.append(path)
            sealed.write_sealed(folder, NEW, replace=True)
        return data

    monkeypatch.setattr(files, "read_bytes", slow)
    assert contents(folder) == NEW


def test_a_folder_left_behind_by_an_earlier_crash_never_comes_back(tmp_path, monkeypatch) -> None:
    folder = tmp_path / "run"
    sealed.write_sealed(folder, NEW, replace=False)
    sealed.write_sealed(tmp_path / ".run.old-99999999-0", OLD, replace=False)
    for _ in failing(lambda: sealed.write_sealed(folder, NEW, replace=True), Killed(), monkeypatch):
        assert contents(folder) == NEW
    assert not [path for path in tmp_path.iterdir() if ".old-" in path.name]


def test_what_is_no_regular_file_is_not_read(tmp_path) -> None:
    (tmp_path / "link").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("link", "pipe", "folder", "missing"):
        with pytest.raises(DataError, match=name):
            files.read_bytes(tmp_path / name, error=DataError)
    (tmp_path / "file").write_bytes(b"12345")
    assert files.read_bytes(tmp_path / "file", limit=4) == b"1234"
    assert files.read_bytes(tmp_path / "file") == b"12345"


@pytest.mark.parametrize("linked", [False, True])
def test_a_pipe_or_device_is_not_replaced_by_a_file(tmp_path, linked) -> None:
    os.mkfifo(tmp_path / "pipe")
    place = tmp_path / "pipe"
    if linked:
        place = tmp_path / "link"
        place.symlink_to("pipe")
    for path in (place, Path(os.devnull)):
        with pytest.raises(ResourceError, match=f"{path} is a device or pipe, no regular file"):
            files.write_bytes(path, b"new")
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"][not linked :]


def test_a_link_to_a_file_stays_and_the_file_is_replaced(tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "link").symlink_to("file")
    files.write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def test_errors_of_the_system_name_the_path_and_the_fix(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="a part of the path is a file"):
        files.write_bytes(tmp_path / "file" / "below", b"")
    with pytest.raises(ResourceError, match="name is too long"):
        files.write_bytes(tmp_path / ("x" * 300), b"")
    with pytest.raises(UsageError, match="NUL"):
        sealed.write_sealed(tmp_path / "a\0b", NEW, replace=False)


@pytest.mark.parametrize(
    ("number", "fix"), [(28, "no space"), (13, "permission"), (30, "read-only"), (5, "check the path")]
)
def test_each_fault_has_its_fix(tmp_path, monkeypatch, number, fix) -> None:
    monkeypatch.setattr(files, "os", Faulty(1, OSError(number, os.strerror(number))))
    with pytest.raises(ResourceError, match=fix) as caught:
        files.write_bytes(tmp_path / "a", b"")
    assert str(tmp_path / "a") in str(caught.value)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"a": 1, "a": 2}', "stands twice"),
        (b'{"a": {"b": 1, "b": 1}}', "stands twice"),
        (b"NaN", "not finite"),
        (b"[-Infinity]", "not finite"),
        (b"1e999", "not finite"),
        (b"[" * 20 + b"]" * 20, "nested deeper"),
        (b"[" * 500_000, "nested deeper"),
        (b'{"a":' * 100_000, "nested deeper"),
        (b"\xff\xfe{}", "utf-8"),
        (b"\x80\x04.", "utf-8"),
        (b"1" * 5000, "integer"),
        (b"", "Expecting value"),
        (b"{} {}", "Extra data"),
    ],
)
def test_json_from_outside_is_strict(text, reason) -> None:
    with pytest.raises(ModelFileError, match=reason) as caught:
        sealed.parse_json(text, "here.json")
    assert str(caught.value).startswith("here.json: ")
