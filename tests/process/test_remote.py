"""Remote folders, with another folder of this machine as the bucket (file://)."""

import shutil
import time

import pytest

from smallvit_jax.errors import UserError
from smallvit_jax.process import remote
from smallvit_jax.process.program import run_program
from smallvit_jax.process.remote import RemoteError, RemoteFolder, local_copy
from smallvit_jax.process.remote_workdir import ConflictError, RemoteWorkdir, workdir_here

NEVER = 3600.0  # seconds between uploads


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that moves this process to a machine, by name, with copies of its own."""

    def move(name):
        monkeypatch.setattr(remote, "COPIES", str(tmp_path / name))

    move("first")
    return move


@pytest.fixture
def bucket(tmp_path):
    return tmp_path / "bucket"


def url(folder) -> str:
    return f"file://{folder}"


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def texts(folder) -> dict[str, str]:
    """The contents of all files but the manifest, by path."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != ".manifest.json"]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


def test_local_paths_are_used_as_they_are(tmp_path):
    assert local_copy(tmp_path / "x") == tmp_path / "x"
    with workdir_here(tmp_path / "x", NEVER) as folder:
        assert folder == tmp_path / "x"


def test_copies_follow_the_remote_folder(machine, bucket, monkeypatch):
    write(bucket, a="1", b__c="2", b__d="3")
    copy = local_copy(url(bucket))
    assert texts(copy) == {"a": "1", "b/c": "2", "b/d": "3"}
    fetched = []
    download = RemoteFolder.download
    monkeypatch.setattr(
        RemoteFolder,
        "download",
        lambda self, names, to: fetched.extend(names) or download(self, names, to),
    )
    write(bucket, b__c="two", e="4")
    (bucket / "a").unlink()
    assert texts(local_copy(url(bucket) + "/")) == {"b/c": "two", "b/d": "3", "e": "4"}
    assert sorted(fetched) == ["b/c", "e"]


def test_interrupted_copy_is_repeated(machine, bucket, monkeypatch):
    write(bucket, a="1", b="2")

    def fail(self, names, folder):
        raise UserError("the network is down")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="network"):
        patch.setattr(RemoteFolder, "download", fail)
        local_copy(url(bucket))
    assert texts(local_copy(url(bucket))) == {"a": "1", "b": "2"}


def test_workdir_is_uploaded_while_it_is_used_and_at_the_end(machine, bucket):
    with workdir_here(url(bucket), 0.01) as folder:
        assert texts(folder) == {}
        write(folder, metrics="1", checkpoints__5__params="x", checkpoints__7__params="y")
        deadline = time.monotonic() + 20
        while texts(bucket) != texts(folder) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert texts(bucket) == texts(folder)
        shutil.rmtree(folder / "checkpoints/5")
        write(folder, metrics="1 2", result="done")
    assert texts(bucket) == {"metrics": "1 2", "checkpoints/7/params": "y", "result": "done"}


def test_files_that_only_matter_on_this_machine_stay_here(machine, bucket):
    with workdir_here(url(bucket), NEVER) as folder:
        write(folder, a="1")
        (folder / ".lock").touch()
        (folder / ".a.17.tmp").touch()
        (folder / "checkpoints/3.orbax-checkpoint-tmp-17").mkdir(parents=True)
        (folder / "checkpoints/3.orbax-checkpoint-tmp-17/params").touch()
    assert texts(bucket) == {"a": "1"}


def test_another_machine_goes_on(machine, bucket):
    with workdir_here(url(bucket), NEVER) as folder:
        write(folder, a="1")
    machine("second")
    with workdir_here(url(bucket), NEVER) as folder:
        assert texts(folder) == {"a": "1"}
        write(folder, a="2", b="3")
    machine("first")  # its own copy is older
    with workdir_here(url(bucket), NEVER) as folder:
        assert texts(folder) == {"a": "2", "b": "3"}


def test_download_takes_what_the_last_complete_upload_had(machine, bucket, monkeypatch):
    with workdir_here(url(bucket), NEVER) as folder:
        write(folder, checkpoints__1__params="1")
    with pytest.raises(UserError), workdir_here(url(bucket), NEVER) as folder:
        write(folder, checkpoints__2__params="2")
        monkeypatch.setattr(RemoteFolder, "write_manifest", fail_to_write)
    assert (bucket / "checkpoints/2/params").exists()
    machine("second")
    with RemoteWorkdir(url(bucket), NEVER) as folder:
        assert texts(folder) == {"checkpoints/1/params": "1"}


def fail_to_write(self, manifest):
    raise UserError(f"{self.url} cannot be written (killed)")


def test_failed_upload_keeps_the_files_and_the_next_run_uploads_them(machine, bucket, monkeypatch):
    with workdir_here(url(bucket), NEVER) as folder:
        write(folder, a="1")
    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "write_manifest", fail_to_write)
        with (
            pytest.raises(UserError, match=rf"the files are in {folder}"),
            workdir_here(url(bucket), NEVER),
        ):
            write(folder, a="2")
    with workdir_here(url(bucket), NEVER) as folder:
        assert texts(folder) == {"a": "2"}
    assert texts(bucket) == {"a": "2"}


def test_failed_upload_does_not_hide_the_run_s_own_error(machine, bucket, monkeypatch, capsys):
    monkeypatch.setattr(RemoteFolder, "write_manifest", fail_to_write)
    with pytest.raises(UserError, match="too high"), workdir_here(url(bucket), NEVER) as folder:
        write(folder, a="1")
        raise UserError("the learning rate is too high")
    assert "cannot be written (killed)" in capsys.readouterr().err


def test_copy_that_was_never_uploaded_is_kept(machine, bucket, monkeypatch, capsys):
    with workdir_here(url(bucket), NEVER) as folder:
        write(folder, a="1")
    with monkeypatch.context() as patch, pytest.raises(UserError):
        patch.setattr(RemoteFolder, "write_manifest", fail_to_write)
        with workdir_here(url(bucket), NEVER):
            write(folder, a="first machine")
    machine("second")
    with workdir_here(url(bucket), NEVER) as other:
        write(other, a="second machine")
    machine("first")
    with workdir_here(url(bucket), NEVER) as folder:
        assert texts(folder) == {"a": "second machine"}
    aside = folder.with_name("bucket.not-uploaded")
    assert texts(aside) == {"a": "first machine"}
    assert f"the copy is now {aside}" in capsys.readouterr().err


def test_two_runs_in_one_remote_folder_are_noticed(machine, bucket):
    with (
        pytest.raises(ConflictError, match="changed by another run"),
        workdir_here(url(bucket), NEVER) as folder,
    ):
        write(folder, a="1")
        machine("second")
        with workdir_here(url(bucket), NEVER) as other:
            write(other, a="2")
    assert texts(bucket) == {"a": "2"}
    assert texts(folder) == {"a": "1"}


def test_conflict_stops_the_run_at_once(machine, bucket, capsys):
    """With SIGTERM, on which a run saves a checkpoint; the error is the conflict."""
    stopped = []

    def body():
        with workdir_here(url(bucket), 0.01) as folder:
            write(folder, a="1")
            while not (bucket / "a").exists():
                time.sleep(0.01)
            machine("second")
            with workdir_here(url(bucket), NEVER) as other:
                write(other, a="2")
            write(folder, a="3")
            try:
                time.sleep(20)
            except KeyboardInterrupt:
                stopped.append(True)
                raise

    assert run_program(body, when_interrupted="") == 2
    assert stopped and texts(bucket) == {"a": "2"}
    assert "changed by another run" in capsys.readouterr().err.splitlines()[-1]


def test_kill_while_the_manifest_is_written_keeps_the_last_one(machine, bucket, monkeypatch):
    with workdir_here(url(bucket), NEVER) as folder:
        write(folder, a="1")

    def killed(self, path, value, **options):
        open(path, "w").close()  # empty so far
        raise ConnectionError("killed")

    with pytest.raises(RemoteError), workdir_here(url(bucket), NEVER) as folder:
        write(folder, b="2")
        monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.pipe_file", killed)
    monkeypatch.undo()
    machine("second")
    with workdir_here(url(bucket), NEVER) as folder:
        assert texts(folder) == {"a": "1"}


@pytest.mark.parametrize("written", [True, False])
def test_lost_answer_to_the_last_upload_is_no_conflict(machine, bucket, monkeypatch, written):
    """Whether or not the manifest arrived, the same machine goes on from its own copy."""
    write_manifest = RemoteFolder.write_manifest

    def lose(self, manifest):
        if written:
            write_manifest(self, manifest)
        raise RemoteError(f"{self.url} cannot be written (timeout)")

    with (
        monkeypatch.context() as patch,
        pytest.raises(RemoteError),
        workdir_here(url(bucket), NEVER) as folder,
    ):
        write(folder, a="1")
        patch.setattr(RemoteFolder, "write_manifest", lose)
    with workdir_here(url(bucket), NEVER) as folder:
        assert texts(folder) == {"a": "1"}
        write(folder, b="2")
    assert texts(bucket) == {"a": "1", "b": "2"}


def test_checkpoint_that_vanishes_during_an_upload_is_left_out(machine, bucket, monkeypatch):
    upload = RemoteFolder.upload

    def upload_while_one_is_deleted(self, names, folder):
        (folder / "checkpoints/1/params").unlink()  # its meta is still there
        return upload(self, names, folder)

    with workdir_here(url(bucket), NEVER) as folder:
        for step in "12":
            write(
                folder, **{f"checkpoints__{step}__params": step, f"checkpoints__{step}__meta": ""}
            )
        monkeypatch.setattr(RemoteFolder, "upload", upload_while_one_is_deleted)
    assert set(texts(bucket)) == {"checkpoints/2/params", "checkpoints/2/meta"}
    machine("second")
    with workdir_here(url(bucket), NEVER) as folder:
        assert set(texts(folder)) == {"checkpoints/2/params", "checkpoints/2/meta"}


def test_unreachable_bucket_is_not_a_mistake(machine, bucket, monkeypatch, capsys):
    def fail(self, path):
        raise ConnectionError("connection reset")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.cat_file", fail)

    def body():
        with workdir_here(url(bucket), NEVER):
            raise AssertionError("must not run")

    assert run_program(body, when_interrupted="") == 75
    error = capsys.readouterr().err
    assert "cannot be read (connection reset); the same command may succeed later" in error


def test_second_run_on_the_same_machine_is_refused(machine, bucket):
    with workdir_here(url(bucket), NEVER) as folder:
        write(folder, a="1")
        with pytest.raises(UserError, match="in use by another run"), workdir_here(url(bucket), 1):
            pass
    assert texts(bucket) == {"a": "1"}
    with workdir_here(url(bucket), NEVER) as folder:
        assert texts(folder) == {"a": "1"}


def test_run_that_was_put_there_by_hand_is_downloaded(machine, bucket):
    write(bucket, a="1", checkpoints__4__params="x")
    with workdir_here(url(bucket), NEVER) as folder:
        assert texts(folder) == {"a": "1", "checkpoints/4/params": "x"}


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("nowhere://x", ["nowhere://x cannot be used", "nowhere"]),
        ("file:///no/such/folder", ["nothing at file:///no/such/folder"]),
    ],
)
def test_addresses_that_cannot_be_read(machine, address, parts):
    with pytest.raises(UserError) as caught:
        local_copy(address)
    assert all(part in str(caught.value) for part in parts)


def test_remote_folder_that_cannot_be_written_is_refused_before_the_run(machine, bucket):
    bucket.write_text("a file, not a folder")
    with (
        pytest.raises(UserError, match=f"{url(bucket)} cannot be written") as caught,
        workdir_here(url(bucket), NEVER),
    ):
        raise AssertionError("must not run")
    assert not isinstance(caught.value, RemoteError)


def test_several_processes_need_a_shared_folder(machine, bucket, monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(UserError, match=r"2 processes.*gcsfuse"), workdir_here(url(bucket), NEVER):
        pass
