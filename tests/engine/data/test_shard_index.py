"""Images of tar files are found by headers alone, kept, found again, and as far as a broken file goes."""

import io
import logging
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitkiln.engine.data import samples as listing
from vitkiln.engine.data import shard_index
from vitkiln.engine.data.samples import UNKNOWN, Shard, listed
from vitkiln.engine.data.shard_index import joined, shards_of
from vitkiln.engine.data.tar import BLOCK, LONGEST, Broken, Bytes, members

from .tars import jpeg, samples, settle, write

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def names(shard: Shard) -> list[str]:
    index = joined("", {"x": shard})
    return [index.member(i) for i in range(len(index))]


def contents(path: Path, shard: Shard) -> list[bytes]:
    data = path.read_bytes()
    return [data[start : start + size] for start, size in zip(shard.offsets, shard.sizes, strict=True)]


def found(path: Path) -> list[tuple[bytes, bytes]]:
    """Names and contents of all members."""
    data = path.read_bytes()
    with path.open("rb") as file:
        archive = Bytes(file.fileno(), len(data))
        return [(name, data[start : start + size]) for name, start, size in members(archive)]


# members


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["a.jpg", "folder/" * 20 + "a.jpg", "d" * 90 + "/" + "n" * 90 + ".jpg"])
def test_names_of_any_length_are_read_in_every_format(tmp_path: Path, format: int, name: str) -> None:
    path = write(tmp_path / "x.tar", [(name, b"one"), ("b.jpg", b"two")], format)
    assert found(path) == [(name.encode(), b"one"), (b"b.jpg", b"two")]


@pytest.mark.parametrize("format", FORMATS[1:])
@pytest.mark.parametrize("name", ["l" * 3000 + "/é.jpg", "\udcff\n.jpg", "名" * 200 + ".jpg", "n" * 2_000_000 + ".jpg"])
def test_names_longer_than_a_header_or_no_text_are_read(tmp_path: Path, format: int, name: str) -> None:
    path = write(tmp_path / "x.tar", [(name, b"one"), ("b.jpg", b"two")], format)
    assert found(path) == [(os.fsencode(name), b"one"), (b"b.jpg", b"two")]


def test_megabytes_of_other_headers_are_passed_over(tmp_path: Path) -> None:
    told = {"comment": "c" * (1 << 21), "SCHILY.xattr.user": "x" * 5000}
    with tarfile.open(tmp_path / "x.tar", "w", pax_headers={"comment": "g" * 9000}) as archive:
        for name in ("a.jpg", "b.jpg"):
            entry = tarfile.TarInfo(name)
            entry.size, entry.pax_headers = 3, told
            archive.addfile(entry, io.BytesIO(b"one"))
    assert found(tmp_path / "x.tar") == [(b"a.jpg", b"one"), (b"b.jpg", b"one")]


def test_what_is_no_file_is_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, kind in (
            ("folder.jpg", tarfile.DIRTYPE),
            ("link.jpg", tarfile.SYMTYPE),
            ("pipe.jpg", tarfile.FIFOTYPE),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, "elsewhere"
            archive.addfile(entry)
        entry = tarfile.TarInfo("file.jpg")
        archive.addfile(entry)
    assert found(tmp_path / "x.tar") == [(b"file.jpg", b"")]


def test_sizes_beyond_eight_gibibytes_are_read(tmp_path: Path) -> None:
    """A hole in place of nine GiB; GNU writes the size in binary, PAX in a record."""
    size = 9 << 30
    for format in FORMATS[1:]:
        path = tmp_path / f"{format}.tar"
        big, small = tarfile.TarInfo("big.jpg"), tarfile.TarInfo("small.jpg")
        big.size, small.size = size, 3
        head = big.tobuf(format)
        with path.open("wb") as file:
            file.write(head)
            file.seek(len(head) + size)
            file.write(small.tobuf(format) + b"one".ljust(BLOCK, b"\0") + bytes(2 * BLOCK))
        shard = listed(str(path))
        assert shard.problem == ""
        assert shard.sizes.tolist() == [size, 3]
        assert shard.offsets.tolist() == [len(head), len(head) + size + len(small.tobuf(format))]


sizes = st.lists(
    st.one_of(st.integers(0, 3000), st.sampled_from([511, 512, 513, 1023, 1024, 4095, 4096, 4097, 70_000])), max_size=12
)
parts = st.text(st.characters(exclude_characters="/.\0", exclude_categories=["Cs"]), min_size=1, max_size=70)


@given(sizes=sizes, folders=st.lists(parts, max_size=4), format=st.sampled_from(FORMATS[1:]))
@settings(max_examples=60, deadline=None)
def test_members_are_those_that_tarfile_reads(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], folders: list[str], format: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "drawn.tar"
    data = np.random.default_rng(sum(sizes)).bytes(sum(sizes))
    ends = np.cumsum(sizes).tolist()
    pairs = enumerate(zip(ends, sizes, strict=True))
    inside = [("/".join([*folders, f"{n}.jpg"]), data[end - size : end]) for n, (end, size) in pairs]
    write(path, inside, format)
    with tarfile.open(path) as archive:
        expected = [(os.fsencode(m.name), archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]
    assert found(path) == expected


# samples


def test_a_sample_is_neighbours_that_agree_up_to_the_first_dot(tmp_path: Path) -> None:
    inside = [
        ("a.b/one.left.jpg", b"1"), ("a.b/one.cls", b"7"), ("two.cls", b"8"), ("two.json", b'{"label": 3}'),
        ("two.jpeg", b"2"), ("a/two.JPG", b"3"), ("a/two.txt", b"words"), ("nothing", b""), (".hidden.jpg", b""),
        ("only.cls", b"4"), ("last.png", b"5"),
    ]  # fmt: skip
    shard = listed(str(write(tmp_path / "x.tar", inside)))
    assert names(shard) == ["a.b/one.left.jpg", "two.jpeg", "a/two.JPG", "last.png"]
    assert contents(tmp_path / "x.tar", shard) == [b"1", b"2", b"3", b"5"]
    assert shard.labels.tolist() == [7, 8, UNKNOWN, UNKNOWN]


@pytest.mark.parametrize(
    ("name", "content", "label"),
    [
        ("cls", b"12", 12), ("cls", b" 12\n", 12), ("CLS", b"0", 0), ("cls", b"dog", UNKNOWN), ("cls", b"", UNKNOWN),
        ("cls", b"-1", UNKNOWN), ("cls", b"9" * 30, UNKNOWN), ("json", b'{"label": 5}', 5),
        ("json", b'{"cls": "6"}', 6),
        ("json", b'{"label": "cat"}', UNKNOWN), ("json", b"[5]", UNKNOWN), ("json", b'{"label": true}', UNKNOWN),
        ("json", b"[" * 100_000, UNKNOWN),
        ("json", b"{", UNKNOWN), ("json", b"\xff", UNKNOWN), ("json", b'{"label": 3.0}', UNKNOWN),
        ("json", b'{"text": "' + b"t" * 100_000 + b'", "label": 4}', 4),
    ],
)  # fmt: skip
def test_a_label_is_a_whole_number_in_cls_or_json(tmp_path: Path, name: str, content: bytes, label: int) -> None:
    for inside in ([(f"a.{name}", content), ("a.jpg", b"1")], [("a.jpg", b"1"), (f"a.{name}", content)]):
        assert listed(str(write(tmp_path / "x.tar", inside))).labels.tolist() == [label]


def test_of_several_images_the_first_is_used_and_that_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "s" / "x.tar", [("a.jpg", b"1"), ("a.png", b"2"), ("b.jpg", b"3"), ("b.seg.png", b"4")])
    with caplog.at_level(logging.WARNING, "vitkiln"):
        first = shards_of(str(tmp_path / "s"))["x.tar"]
        shards_of(str(tmp_path / "s"))
    assert names(first) == ["a.jpg", "b.jpg"]
    told = f"{tmp_path}/s/x.tar: 2 samples hold more than one image; the first of each is used"
    assert [record.getMessage() for record in caplog.records] == [told]


# broken shards


def test_a_shard_cut_anywhere_gives_the_samples_before_the_cut(tmp_path: Path) -> None:
    inside = [("a.jpg", b"1" * 700), ("a.cls", b"0"), ("n" * 150 + "/b.jpg", b"2"), ("n" * 150 + "/b.cls", b"1")]
    data = write(tmp_path / "whole.tar", inside).read_bytes()
    whole = listed(str(tmp_path / "whole.tar"))
    end = len(data.rstrip(b"\0"))  # of the last header, and of its one letter
    path = tmp_path / "cut.tar"
    for length in [*range(0, len(data), 61), *range(4), *range(BLOCK - 3, BLOCK + 4), *range(end - 3, end + 4)]:
        path.write_bytes(data[:length])
        shard = listed(str(path))
        kept = len(shard.offsets)
        assert names(shard) == names(whole)[:kept]
        assert shard.labels.tolist() == [0, 1][:kept]
        assert (shard.problem == "") == (length >= (end + BLOCK - 1) // BLOCK * BLOCK + BLOCK)
        assert "cut short: at least " in shard.problem or shard.problem in ("", "the file is empty")
        assert all(len(content) == size for content, size in zip(contents(path, shard), shard.sizes, strict=True))


@pytest.mark.parametrize("length", [1536, 1537, 3000])
def test_a_cut_shard_tells_how_much_is_missing(tmp_path: Path, length: int) -> None:
    path = write(tmp_path / "x.tar", [("a.cls", b"1"), ("a.jpg", b"i" * 5000)])
    path.write_bytes(path.read_bytes()[:length])
    assert listed(str(path)).problem == f"cut short: at least {1536 + 5000 - length} bytes are missing"


def test_garbage_in_the_middle_ends_a_shard(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tar", [("a.jpg", b"1"), ("b.jpg", b"2"), ("c.jpg", b"3")])
    data = bytearray(path.read_bytes())
    data[2048:2060] = b"not a header"
    path.write_bytes(data)
    shard = listed(str(path))
    assert (names(shard), shard.problem) == (["a.jpg"], "byte 2048: what is there is no part of a tar file")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "the file is empty"), (b"x" * 511, "cut short: at least 1 bytes are missing"),
        (b"<html>not found</html>" * 100, "not a tar file"),
        (b"\x1f\x8b" + b"\0" * 2000, "not a tar file: compressed by gzip; unpack it"), (b"8" * 2000, "not a tar file"),
    ],
)  # fmt: skip
def test_what_is_no_tar_file_is_told(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    shard = listed(str(tmp_path / "x.tar"))
    assert (len(shard.offsets), shard.problem) == (0, problem)


def test_what_cannot_be_read_is_told_and_never_waited_for(tmp_path: Path) -> None:
    (tmp_path / "folder.tar").mkdir()
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "gone.tar").symlink_to("/nowhere")
    found = {name: shard.problem for name, shard in shards_of(str(tmp_path)).items()}
    assert found == {"folder.tar": "not a file", "pipe.tar": "not a file", "gone.tar": "No such file or directory"}


def header(kind: bytes, size: bytes, name: bytes = b"a.jpg") -> bytes:
    block = bytearray(BLOCK)
    block[: len(name)], block[124 : 124 + len(size)], block[156:157] = name, size, kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (header(b"0", b"-1"), r"byte 0: a file of b'-1"),
        (header(b"0", b"99"), r"byte 0: a file of b'99"),
        (header(b"0", b"\xff" * 12), r"byte 0: a file of"),
        (header(b"0", b"\x80" + b"\xff" * 11), r"cut short: at least \d{20,} bytes"),
        (header(b"K", b"\x80" + b"\xff" * 11), r"cut short"),
        (header(b"g", b"\x80\0\0\0\x7f" + b"\xff" * 7), r"cut short"),
        (header(b"x", b"%o" % (LONGEST + 1)), rf"byte 512: {LONGEST + 1} bytes about one file"),
        (header(b"x", b"%o" % LONGEST), r"cut short"),
        (header(b"x", b"5") + b"junk\n".ljust(BLOCK, b"\0"), r"byte 512: what is there is no part"),
        (header(b"x", b"10") + b"99 a=b\n\0".ljust(BLOCK, b"\0"), r"byte 512: what is there is no part"),
        (header(b"x", b"10") + b"0 a=b\n\0\0".ljust(BLOCK, b"\0"), r"byte 512: what is there is no part"),
        (header(b"x", b"13") + b"11 size=-5\n".ljust(BLOCK, b"\0") + header(b"0", b"0"), r"byte 1024: a file of b'-5'"),
    ],
)
def test_headers_that_lie_are_told(tmp_path: Path, data: bytes, problem: str) -> None:
    (tmp_path / "x.tar").write_bytes(data)
    with (tmp_path / "x.tar").open("rb") as file, pytest.raises(Broken, match=problem):
        list(members(Bytes(file.fileno(), len(data))))


@given(data=st.binary(max_size=1500), where=st.integers(0, 4000))
@settings(max_examples=100, deadline=None)
def test_bytes_written_over_a_shard_never_crash(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, where: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "overwritten.tar"
    whole = write(path, [("a.jpg", b"1" * 600), ("a.json", b'{"label": 1}'), ("b" * 120 + ".jpg", b"2")]).read_bytes()
    path.write_bytes((whole[:where] + data + whole[where + len(data) :])[: len(whole)])
    shard = listed(str(path))
    assert all(0 <= start <= start + size <= len(whole) for start, size in zip(shard.offsets, shard.sizes, strict=True))


# what is read, and what is kept


def test_images_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "x.tar", [(f"{n}.{kind}", b"7" * size) for n in range(9) for kind, size in
                                      (("jpg", 500_000), ("cls", 1))])  # fmt: skip
    read, pread = [], os.pread

    def counted(file: int, count: int, offset: int) -> bytes:
        read.append(count)
        return pread(file, count, offset)

    monkeypatch.setattr(os, "pread", counted)
    assert len(listed(str(path)).offsets) == 9
    assert sum(read) < 20 * 4096
    assert path.stat().st_size > 4_500_000


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The shards that are listed."""
    found: list[str] = []

    def noted(path: str) -> Shard:
        found.append(Path(path).name)
        return listing.listed(path)

    monkeypatch.setattr(shard_index, "listed", noted)
    return found


def three(folder: Path) -> Path:
    for number in range(3):
        write(folder / f"{number}.tar", samples(4, 4 * number))
    return folder


def same(first: dict[str, Shard], second: dict[str, Shard]) -> bool:
    def plain(shard: Shard) -> list[object]:
        return [value.tolist() if isinstance(value, np.ndarray) else value for value in shard]

    return {name: plain(shard) for name, shard in first.items()} == {name: plain(s) for name, s in second.items()}


def test_unchanged_shards_are_not_listed_again(tmp_path: Path, seen: list[str]) -> None:
    root = three(tmp_path / "s")
    first = shards_of(str(root))
    assert seen == ["0.tar", "1.tar", "2.tar"]
    assert same(shards_of(str(root)), first)
    assert len(seen) == 3


def test_a_changed_shard_alone_is_listed_again(tmp_path: Path, seen: list[str]) -> None:
    root = three(tmp_path / "s")
    shards_of(str(root))
    write(root / "1.tar", samples(9, 50))
    again = shards_of(str(root))
    assert seen[3:] == ["1.tar"]
    assert [len(shard.offsets) for shard in again.values()] == [4, 9, 4]
    assert again["2.tar"].labels.tolist() == [8 % 3, 9 % 3, 10 % 3, 11 % 3]


@pytest.mark.parametrize("change", ["touched", "added", "removed"])
def test_shards_come_and_go(tmp_path: Path, seen: list[str], change: str) -> None:
    root = three(tmp_path / "s")
    shards_of(str(root))
    if change == "touched":
        settle(root / "0.tar", 1800)
    elif change == "added":
        write(root / "00.tar", samples(1))
    else:
        (root / "1.tar").unlink()
    found = list(shards_of(str(root)))
    assert found == sorted(path.name for path in root.glob("*.tar"))
    assert seen[3:] == {"touched": ["0.tar"], "added": ["00.tar"], "removed": []}[change]


def test_a_shard_written_just_now_is_not_trusted_the_next_time(tmp_path: Path, seen: list[str]) -> None:
    root = three(tmp_path / "s")
    write(root / "1.tar", samples(2), old=False)
    for _ in range(2):
        assert len(shards_of(str(root))["1.tar"].offsets) == 2
    assert seen[3:] == ["1.tar"]


def test_a_damaged_list_is_made_again(tmp_path: Path, cache: Path, seen: list[str]) -> None:
    root = three(tmp_path / "s")
    first = shards_of(str(root))
    (file,) = cache.iterdir()
    for damage in (b"", file.read_bytes()[:200], b"PK" + file.read_bytes()):
        file.write_bytes(damage)
        assert same(shards_of(str(root)), first)
    assert len(seen) == 12


def test_a_list_that_cannot_be_kept_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(shards_of(str(three(tmp_path / "s")))) == 3


def test_problems_are_kept_with_the_list(tmp_path: Path, seen: list[str]) -> None:
    root = three(tmp_path / "s")
    (root / "1.tar").write_bytes((root / "1.tar").read_bytes()[:1000])
    settle(root / "1.tar")
    first, second = (joined(str(root), shards_of(str(root))) for _ in range(2))
    assert len(seen) == 3
    assert first.problems == second.problems
    assert [path for path, _ in second.problems] == [str(root / "1.tar")]


def test_many_shards_are_listed_alike_by_several_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(9):
        write(tmp_path / "s" / f"{number}.tar", samples(2, number))
    several = shards_of(str(tmp_path / "s"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    monkeypatch.setattr(shard_index, "AT_ONCE", 1000)
    assert same(several, shards_of(str(tmp_path / "s")))


def test_a_hundred_thousand_images_are_opened_from_the_list_at_once(tmp_path: Path) -> None:
    count = 10_000
    shard = listed(str(write(tmp_path / "s" / "0.tar", [("a.jpg", b"1")])))
    columns = [np.repeat(column, count) for column in shard[1:5]]
    shards = {}
    for number in range(10):
        path = write(tmp_path / "s" / f"{number}.tar", [("a.jpg", b"1")])
        state = path.stat().st_size, path.stat().st_mtime_ns
        shards[path.name] = Shard(state, *columns, np.tile(shard.names, count), 0, "")
    cache = shard_index.cache_file(f"{tmp_path}/s/*.tar")
    shard_index.keep(shard_index.packed(shards), cache)
    started = time.perf_counter()
    assert len(joined("", shards_of(str(tmp_path / "s")))) == 100_000
    assert time.perf_counter() - started < 0.5


def test_decodable_suffixes_are_those_of_folders(tmp_path: Path) -> None:
    inside = [("a.webp", b""), ("b.tiff", b""), ("c.txt", b""), ("d.jpg.txt", b""), ("e.PNG", jpeg(0, "PNG"))]
    assert names(listed(str(write(tmp_path / "x.tar", inside)))) == ["a.webp", "b.tiff", "e.PNG"]
