"""Decoding once: what is loaded, what is cached, and that a bad file or disk loses nothing."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tinynet.data import cache
from tinynet.data.cache import cache_directory, load_images
from tinynet.data.folder import scan_folder
from tinynet.errors import ArgumentError, DataError
from tinynet.images import decode, resize

Image = pytest.importorskip("PIL.Image")


def draw(path, seed, height=20, width=17):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    for number, name in enumerate(["Uninfected", "Parasitized"]):
        (tmp_path / "data" / name).mkdir(parents=True)
        for i in range(40):
            draw(tmp_path / "data" / name / f"C{i % 5}_cell_{i:02}.png", 100 * number + i, 20 + i, 17)
    return scan_folder(tmp_path / "data")


@pytest.fixture
def store(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def decoded(monkeypatch):
    """The paths decoded so far."""
    seen = []

    def spy(path):
        seen.append(path)
        return decode(path)

    monkeypatch.setattr(cache, "decode", spy)
    return seen


def test_loads_every_image_in_order(folder, store):
    loaded = load_images(folder, 8, 9, store, progress=False)
    wanted = np.stack([resize(decode(path), 8, 9) for path in folder.paths])
    np.testing.assert_array_equal(loaded.images, wanted)
    np.testing.assert_array_equal(loaded.kept, range(80))
    np.testing.assert_array_equal(loaded.sizes, [decode(path).shape[:2] for path in folder.paths])
    assert loaded.unreadable == []


def test_the_second_time_nothing_is_decoded(folder, store, decoded):
    first = load_images(folder, 8, 8, store, progress=False)
    assert len(decoded) == 80
    second = load_images(folder, 8, 8, store, progress=False)
    assert len(decoded) == 80
    np.testing.assert_array_equal(first.images, second.images)
    np.testing.assert_array_equal(first.sizes, second.sizes)


def test_a_selection_is_served_from_the_cache_of_the_whole(folder, store, decoded):
    everything = load_images(folder, 8, 8, store, progress=False)
    for chosen in ([3, 4, 77], [77, 3, 4, 3], range(1, 80), range(40)):
        fewer = load_images(folder.select(list(chosen)), 8, 8, store, progress=False)
        np.testing.assert_array_equal(fewer.images, everything.images[list(chosen)])
        np.testing.assert_array_equal(fewer.sizes, everything.sizes[list(chosen)])
        np.testing.assert_array_equal(fewer.kept, range(len(chosen)))
    assert len(decoded) == 80


def test_the_first_load_may_be_of_a_selection(folder, store, decoded):
    fewer = load_images(folder.exclude([folder.names[0]]), 8, 8, store, progress=False)
    assert len(fewer.images) == 79
    everything = load_images(folder, 8, 8, store, progress=False)
    assert len(decoded) == 80
    np.testing.assert_array_equal(everything.images[1:], fewer.images)


def test_another_size_or_a_changed_image_is_decoded_again(folder, store, decoded):
    load_images(folder, 8, 8, store, progress=False)
    load_images(folder, 8, 9, store, progress=False)
    assert len(decoded) == 160
    draw(folder.paths[3], seed=999)
    os.utime(folder.paths[3], ns=(1, 1))
    changed = load_images(folder, 8, 8, store, progress=False)
    assert len(decoded) == 240
    np.testing.assert_array_equal(changed.images[3], resize(decode(folder.paths[3]), 8, 8))


def test_a_folder_that_only_looks_the_same_has_a_cache_of_its_own(tmp_path, store):
    roots = [tmp_path / name for name in ("first", "second")]
    for level, root in enumerate(roots):
        for name in ("Uninfected", "Parasitized"):
            (root / name).mkdir(parents=True)
            path = root / name / "C1_cell_1.bmp"  # not compressed: the same size whatever is in it
            Image.fromarray(np.full((20, 20, 3), 50 + level, np.uint8)).save(path)
            os.utime(path, ns=(1, 1))
    for level, root in enumerate(roots):
        loaded = load_images(scan_folder(root), 8, 8, store, progress=False)
        assert np.all(loaded.images == 50 + level)


def test_an_edit_that_keeps_size_and_modification_time_is_seen(folder, store):
    path = folder.paths[3]
    Image.fromarray(np.full((20, 20, 3), 50, np.uint8)).save(path, "bmp")
    before = path.stat()
    assert np.all(load_images(folder, 8, 8, store, progress=False).images[3] == 50)
    time.sleep(0.05)  # longer than the file system's clock takes to tick
    Image.fromarray(np.full((20, 20, 3), 51, np.uint8)).save(path, "bmp")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    if sys.platform != "win32":  # where the time of change is that of creation
        assert np.all(load_images(folder, 8, 8, store, progress=False).images[3] == 51)


def test_a_folder_by_another_path_is_served_from_the_same_cache(folder, store, decoded, monkeypatch):
    load_images(folder, 8, 8, store, progress=False)
    monkeypatch.chdir(folder.root.parent)
    load_images(scan_folder("data"), 8, 8, store, progress=False)
    assert len(decoded) == 80


def test_one_bad_image_is_recorded_and_passed_over(folder, store):
    folder.paths[5].write_bytes(folder.paths[5].read_bytes()[:200])
    folder.paths[70].write_bytes(b"")
    for _ in ("decoded", "cached"):
        loaded = load_images(folder, 8, 8, store, progress=False)
        readable = [i for i in range(80) if i not in (5, 70)]
        np.testing.assert_array_equal(loaded.kept, readable)
        wanted = np.stack([resize(decode(folder.paths[i]), 8, 8) for i in readable])
        np.testing.assert_array_equal(loaded.images, wanted)
        assert [path for path, _ in loaded.unreadable] == [folder.paths[5], folder.paths[70]]
        reasons = [reason for _, reason in loaded.unreadable]
        assert reasons[0].startswith("is truncated") and reasons[1].startswith("is an empty file")

        some = load_images(folder.select([4, 5, 6, 70, 71]), 8, 8, store, progress=False)
        np.testing.assert_array_equal(some.kept, [0, 2, 4])
        np.testing.assert_array_equal(some.images, loaded.images[[4, 5, 69]])
        assert len(some.unreadable) == 2


def test_an_image_that_became_readable_is_not_lost(folder, store, monkeypatch):
    def forgetful(path):
        if path == folder.paths[5]:
            raise cache.FileAccessError("no permission")
        return decode(path)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "decode", forgetful)
        assert len(load_images(folder, 8, 8, store, progress=False).images) == 79
    assert len(load_images(folder, 8, 8, store, progress=False).images) == 80


def test_none_readable_is_an_error(folder, store):
    for path in folder.paths:
        path.write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"none of the 80 images .* is readable: .*not an image"):
        load_images(folder, 8, 8, store, progress=False)
    with pytest.raises(DataError, match="no images"):
        load_images(folder.select([]), 8, 8, store, progress=False)


def damage_truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def damage_flip(path):
    data = bytearray(path.read_bytes())
    data[-50] ^= 1
    path.write_bytes(bytes(data))


def damage_replace(path):
    path.write_bytes(b"rubbish")


def damage_objects(path):
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)


@pytest.mark.parametrize(
    "suffix, damage",
    [
        (".npy", damage_truncate),
        (".npy", damage_flip),
        (".npy", damage_replace),
        (".npy", damage_objects),
        (".npy", Path.unlink),
        (".json", damage_truncate),
        (".json", damage_replace),
        (".json", lambda path: path.write_text("{}")),
        (".json", lambda path: path.write_text("[]")),
        (".json", lambda path: path.write_text(json.dumps({"sizes": 3, "reasons": {"x": 1}}))),
        (".json", Path.unlink),
    ],
)
def test_a_damaged_cache_is_made_again(folder, store, decoded, suffix, damage):
    wanted = load_images(folder, 8, 8, store, progress=False).images.copy()
    (path,) = store.glob(f"*{suffix}")
    damage(path)
    np.testing.assert_array_equal(load_images(folder, 8, 8, store, progress=False).images, wanted)
    assert len(decoded) == 160
    load_images(folder, 8, 8, store, progress=False)
    assert len(decoded) == 160


def test_changing_what_was_loaded_does_not_change_the_cache(folder, store):
    loaded = load_images(folder, 8, 8, store, progress=False).images
    before = loaded.copy()
    loaded[:] = 0
    np.testing.assert_array_equal(load_images(folder, 8, 8, store, progress=False).images, before)


def test_where_no_cache_can_be_written_only_the_selection_is_decoded(folder, tmp_path, decoded):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="without a cache") as caught:
        loaded = load_images(folder.select([9, 2]), 8, 8, tmp_path / "file" / "cache", progress=False)
    assert len(caught) == 1 and len(decoded) == 2
    np.testing.assert_array_equal(loaded.images[1], resize(decode(folder.paths[2]), 8, 8))


def test_without_a_home_folder(folder, monkeypatch):
    def homeless():
        raise RuntimeError("Could not determine home directory.")

    for name in ("TINYNET_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.warns(UserWarning, match="home"):
        assert len(load_images(folder, 8, 8, progress=False).images) == 80


def test_a_full_disk_costs_the_cache_not_the_run(folder, store, monkeypatch):
    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.warns(UserWarning, match="No space left"):
        assert len(load_images(folder, 8, 8, store, progress=False).images) == 80
    assert list(store.iterdir()) == []


def test_a_read_only_cache_is_still_read(folder, store, decoded, monkeypatch):
    load_images(folder, 8, 8, store, progress=False)
    monkeypatch.setattr(cache, "_can_write", lambda directory: False)
    load_images(folder, 8, 8, store, progress=False)
    assert len(decoded) == 80


def test_old_caches_are_removed_and_the_ones_in_use_stay(folder, store, decoded):
    for size in range(4, 4 + cache.MAX_CACHES):
        load_images(folder, size, size, store, progress=False)
    for path in store.iterdir():
        os.utime(path, (1, 1))
    (store / "cells-x.npy.y.tmp").touch()
    os.utime(store / "cells-x.npy.y.tmp", (1, 1))
    (store / "theirs.npy").touch()
    load_images(folder, 4, 4, store, progress=False)  # in use again
    before = len(decoded)
    load_images(folder, 3, 3, store, progress=False)  # one too many
    load_images(folder, 4, 4, store, progress=False)
    assert len(decoded) == before + 80
    assert len(list(store.glob("*.json"))) == cache.MAX_CACHES
    assert len(list(store.glob("cells-*.npy"))) == cache.MAX_CACHES
    assert not list(store.glob("*.tmp")) and (store / "theirs.npy").exists()


def test_where_caches_are_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("TINYNET_CACHE", str(tmp_path))
    assert cache_directory() == tmp_path
    monkeypatch.delenv("TINYNET_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_directory() == tmp_path / "tinynet"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    assert cache_directory() == Path.home() / ".cache" / "tinynet"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_directory() == Path.home() / "Library" / "Caches" / "tinynet"


@pytest.mark.parametrize("bar", [True, False])
def test_progress_goes_to_standard_error_or_nowhere(folder, store, capsys, monkeypatch, bar):
    if bar:
        pytest.importorskip("tqdm")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    load_images(folder, 8, 8, store, progress=False)
    assert capsys.readouterr() == ("", "")
    load_images(folder, 9, 9, store, progress=True)
    output = capsys.readouterr()
    assert output.out == "" and "decoding images" in output.err and "80" in output.err


def test_impossible_sizes_are_refused(folder, store):
    for height, width in ((0, 8), (8, -1), (8, 10**6), (8.0, 8)):
        with pytest.raises(ArgumentError):
            load_images(folder, height, width, store, progress=False)
    assert not store.exists()
