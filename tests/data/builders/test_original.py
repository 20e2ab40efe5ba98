"""Finding and reading the files of an original, packed and unpacked."""

import re

import pytest

from smallvit_jax.data.builders.original import Original, OriginalLayout
from smallvit_jax.errors import UserError
from tests.data.tiny_originals import pack

CONTENT = {f"train/{name}.txt": name.encode() for name in "abc"} | {"list.txt": b"a b c"}


def recognize(path):
    match = re.search(r"(?:^|/)(train/\w\.txt|list\.txt)$", path)
    return match[1] if match else None


LAYOUT = OriginalLayout(
    "set.zip", ("set*.zip", "set*.tar.gz"), ("train", "list.txt"), ("list.txt",), recognize
)


@pytest.fixture
def unpacked(tmp_path):
    folder = tmp_path / "unpacked" / "set"
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / "other").mkdir()
    (folder / "other/train").write_text("not of the set")
    (folder / "train/._a.txt").write_text("what macOS adds")
    return folder


def check_reads_everything(path):
    original = Original(path, LAYOUT)
    assert set(original.files) == set(CONTENT)
    assert dict(original.read(original.files)) == CONTENT
    assert dict(original.read(["train/b.txt"])) == {"train/b.txt": b"b"}
    assert original.read_text("list.txt") == "a b c"


def test_unpacked_folder_or_its_parents_can_be_given(unpacked):
    for folder in (unpacked, unpacked.parent, unpacked.parent.parent):
        check_reads_everything(folder)


@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz"])
def test_archive_or_its_folder_can_be_given(unpacked, tmp_path, name):
    (tmp_path / "packed").mkdir()
    archive = pack(unpacked, tmp_path / "packed" / name)
    check_reads_everything(archive)
    check_reads_everything(archive.parent)


def test_renamed_archive_can_be_given_directly(unpacked, tmp_path):
    check_reads_everything(pack(unpacked, tmp_path / "renamed.zip"))


def test_archives_and_loose_files_can_be_mixed(unpacked, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    pack(unpacked, folder / "set_1.tar.gz", members=("train",))
    (unpacked / "list.txt").rename(folder / "list.txt")
    check_reads_everything(folder)


def test_duplicate_file_counts_once(unpacked):
    pack(unpacked, unpacked / "set.zip")
    check_reads_everything(unpacked)


def failure(path):
    with pytest.raises(UserError) as caught:
        original = Original(path, LAYOUT)
        list(original.read(original.files))
    return str(caught.value)


def test_missing_original_is_reported(tmp_path):
    assert failure(tmp_path / "no") == f'--manual_dir "{tmp_path}/no" does not exist; pass set.zip'
    assert "has no files of the dataset; pass set.zip" in failure(tmp_path)


@pytest.mark.parametrize("content", [b"", b"<html>404 Not Found</html>"])
def test_invalid_archive_is_reported(tmp_path, content):
    file = tmp_path / "set.zip"
    file.write_bytes(content)
    assert f"{file} is not a zip or tar archive, or is truncated" in failure(file)
    assert f"{file} is not a zip or tar archive, or is truncated" in failure(tmp_path)


def test_archive_without_the_dataset_is_refused(unpacked, tmp_path):
    archive = pack(unpacked / "other", tmp_path / "set.zip")
    assert "has no files of the dataset; pass set.zip" in failure(archive)
    archive.write_bytes(bytes(2000))  # an empty tar
    assert "has no files of the dataset; pass set.zip" in failure(archive)


@pytest.mark.parametrize("kept", [0.3, 0.9])
@pytest.mark.parametrize("name", ["set.zip", "set.tar.gz"])
def test_truncated_archive_is_reported(unpacked, tmp_path, name, kept):
    archive = pack(unpacked, tmp_path / name)
    content = archive.read_bytes()
    archive.write_bytes(content[: int(kept * len(content))])
    assert re.search(f"{archive} (is not a zip|is damaged or truncated)", failure(archive))


def test_flipped_byte_in_an_archive_is_detected(unpacked, tmp_path):
    archive = pack(unpacked, tmp_path / "set.zip")
    content = bytearray(archive.read_bytes())
    content[content.index(b"a b c")] ^= 1
    archive.write_bytes(content)
    assert "set.zip is damaged or truncated (BadZipFile: Bad CRC-32" in failure(archive)


def test_missing_small_file_is_named(unpacked):
    (unpacked / "train/a.txt").unlink()
    with pytest.raises(UserError, match=r"has no file train/a.txt; download the original again"):
        Original(unpacked, LAYOUT).read_text("train/a.txt")
