"""Datasets: what is built is what was published, whole, in one order; everything else is refused with the fix.

The CIFAR tests run torchvision's own loader on small archives of the right format, with the digests of those
archives in the place of the published ones. KD_TEST_IMAGES may name a folder of image folders of real photographs.
"""

import contextlib
import errno
import functools
import hashlib
import http.server
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
import zlib
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kd import data
from kd.core.errors import ConfigError, DataError, KdError, StorageError
from kd.core.files import file_digest, sha256
from kd.data import arrays, sources
from kd.data.arrays import Images, normalisation, open_dataset, write_dataset
from kd.data.crops import ResizedCrops
from kd.data.folder import image_folder
from kd.data.mix import mix, stream
from kd.data.prepare import listed, prepare_dataset
from kd.data.splits import hold_out, subset
from kd.data.streamed import Reader

# -- the table of contents --------------------------------------------------------------------------------------------


@pytest.mark.process
def test_the_table_of_contents_imports_nothing_heavy():
    heavy = ["numpy", "torch", "torchvision", "pandas", "sklearn", "PIL"]
    code = f"import sys, kd.data; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_entry_names_a_function_that_exists_and_its_module():
    for entry in [*data.DATASETS.values(), data.FOLDER, *data.NOISES.values()]:
        assert callable(data.load(entry.function))
        assert entry.function.startswith(f"{entry.module}:")
        assert entry.description


def test_only_digits_may_not_be_mirrored():
    assert [name for name, source in data.DATASETS.items() if not source.mirrorable] == ["digits"]
    assert {name: source.pad for name, source in data.DATASETS.items()} == {"digits": 1, "cifar10": 4, "cifar100": 4}


# -- counter-based numbers --------------------------------------------------------------------------------------------


def _splitmix64(seed, count):
    """Step the generator as it is published, in Python integers."""
    outputs = []
    for _ in range(count):
        seed = (seed + 0x9E3779B97F4A7C15) % 2**64
        z = ((seed ^ (seed >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % 2**64
        outputs.append(z ^ (z >> 31))
    return outputs


def test_mix_is_splitmix64_read_at_a_position():
    # the outputs of the authors' reference code for seed 1234567
    assert _splitmix64(1234567, 3) == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    for seed in (0, 1, 2**64 - 1):
        for purpose, inner in enumerate(_splitmix64(seed, 3)):
            assert mix(seed, purpose, np.arange(5)).tolist() == _splitmix64(inner, 5)


@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**40), min_size=1))
def test_mix_at_an_index_does_not_depend_on_the_other_indices(seed, purpose, indices):
    together = mix(seed, purpose, np.array(indices))
    assert together.tolist() == [int(mix(seed, purpose, index)) for index in indices]
    assert len(set(together.tolist())) == len(set(indices))


def test_mix_is_even_over_the_bits_for_neighbouring_seeds_and_indices():
    numbers = mix(np.arange(100)[:, None], stream("subset"), np.arange(1000))
    bits = (numbers[..., None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert abs(bits.mean((0, 1)) - 0.5).max() < 0.01
    assert len(np.unique(numbers)) == numbers.size


# -- digits -----------------------------------------------------------------------------------------------------------


def test_digits_are_scikit_learns_with_brightness_16_at_255():
    from sklearn.datasets import load_digits

    bunch = load_digits()
    digits = sources.digits()
    assert digits.train_images.shape == (898, 8, 8, 1)
    assert digits.test_images.shape == (899, 8, 8, 1)
    both = np.concatenate([digits.train_images, digits.test_images])[..., 0]
    assert np.array_equal(np.rint(both / 255 * 16), bunch.images)
    assert both.max() == 255
    assert np.array_equal(np.concatenate([digits.train_labels, digits.test_labels]), bunch.target)


def test_normalisation_gives_the_training_pixels_mean_0_and_deviation_1():
    images = np.random.default_rng(0).integers(0, 256, (2500, 5, 5, 3)).astype(np.uint8)
    mean, std = normalisation(images)
    normal = (images / 255 - mean) / std
    assert np.allclose(normal.mean((0, 1, 2)), 0)
    assert np.allclose(normal.std((0, 1, 2)), 1)


# -- CIFAR ------------------------------------------------------------------------------------------------------------


def _cifar_files(name, per_batch=3):
    """Return {member: bytes} in the format of the published pickles, and the (images, labels) within."""
    rng = np.random.default_rng(1)
    batches = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"] if name == "cifar10" else ["train", "test"]
    key, classes = ("labels", 10) if name == "cifar10" else ("fine_labels", 100)
    files, content = {}, {}
    for batch in batches:
        rows = rng.integers(0, 256, (per_batch, 3072)).astype(np.uint8)
        labels = rng.integers(0, classes, per_batch).tolist()
        files[batch] = pickle.dumps({"data": rows, key: labels, "filenames": ["x"] * per_batch}, protocol=2)
        content[batch] = (rows, labels)
    names = {"label_names" if name == "cifar10" else "fine_label_names": [f"class{i}" for i in range(classes)]}
    files["batches.meta" if name == "cifar10" else "meta"] = pickle.dumps(names, protocol=2)
    return files, content


def _archive(path, base, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"{base}/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request, tmp_path, monkeypatch):
    """Return (name, archive path, what is in it), with torchvision's table of digests set to that archive's."""
    import torchvision.datasets as tv

    name = request.param
    published = getattr(tv, name.upper())
    files, content = _cifar_files(name)
    archive = tmp_path / "in" / published.filename
    archive.parent.mkdir()
    _archive(archive, published.base_folder, files)

    for table in ("train_list", "test_list"):
        monkeypatch.setattr(
            published, table, [[member, _md5(files[member])] for member, _ in getattr(published, table)]
        )
    monkeypatch.setattr(published, "meta", {**published.meta, "md5": _md5(files[published.meta["filename"]])})
    monkeypatch.setattr(published, "tgz_md5", _md5(archive.read_bytes()))
    monkeypatch.setitem(sources._ARCHIVE_SHA256, name, file_digest(archive))
    return name, archive, content


def _md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _build(name, **options):
    return data.load(data.DATASETS[name].function)(**options)


def _check_cifar(images, name, content):
    *train, (test_rows, test_labels) = content.values()
    pixels = np.concatenate([rows for rows, _ in train]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert np.array_equal(images.train_images, pixels)
    assert np.array_equal(images.test_images, test_rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    assert images.train_labels.tolist() == [label for _, labels in train for label in labels]
    assert images.test_labels.tolist() == test_labels
    assert len(images.class_names) == (10 if name == "cifar10" else 100)


def test_cifar_is_read_from_an_archive_its_folder_or_unpacked(cifar, tmp_path):
    name, archive, content = cifar
    unpacked = tmp_path / "unpacked"
    with tarfile.open(archive) as tar:
        tar.extractall(unpacked, filter="data")
    for source in (archive, archive.parent, unpacked, next(unpacked.iterdir())):
        _check_cifar(_build(name, source=source), name, content)
    assert os.listdir(archive.parent) == [archive.name]  # what the user gave is left as it was


@contextlib.contextmanager
def _served(archive, name, monkeypatch):
    """Let the archive be what is published at the dataset's URL."""
    import torchvision.datasets as tv

    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(archive.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
        monkeypatch.setattr(getattr(tv, name.upper()), "url", url)
        yield
        server.shutdown()


def test_cifar_is_downloaded_once_and_published(cifar, tmp_path, monkeypatch):
    name, archive, content = cifar
    with _served(archive, name, monkeypatch):
        _check_cifar(_build(name, download_root=tmp_path / "root"), name, content)
    manifest = prepare_dataset(name, None, tmp_path / "out", tmp_path / "root", {})  # the server is gone
    assert manifest["provenance"]["sha256"] == file_digest(archive)
    assert open_dataset(tmp_path / "out").classes == len(manifest["class_names"])


def _refused(name, fix="source: PATH", **options):
    with pytest.raises(DataError) as caught:
        _build(name, **options)
    assert fix in str(caught.value)
    return str(caught.value)


def test_a_tampered_archive_is_refused_before_anything_in_it_runs(cifar, tmp_path):
    """Fault 58: by its SHA-256, and unpacked by the MD5 of each file."""
    name, archive, _ = cifar
    trap = tmp_path / "trap"

    class Payload:
        def __reduce__(self):
            return Path.touch, (trap,)

    import torchvision.datasets as tv

    published = getattr(tv, name.upper())
    files = dict.fromkeys(_cifar_files(name)[0], pickle.dumps(Payload()))
    _archive(archive, published.base_folder, files)
    assert str(archive) in _refused(name, source=archive)
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    assert published.base_folder in _refused(name, source=tmp_path)
    assert not trap.exists()


def test_an_archive_of_which_the_md5_alone_is_right_is_refused_with_both_digests(cifar, tmp_path, monkeypatch):
    """Fault 58: MD5 can be forged."""
    import torchvision.datasets as tv

    name, archive, _ = cifar
    right = file_digest(archive)
    archive.write_bytes(archive.read_bytes() + b"\0")
    monkeypatch.setattr(getattr(tv, name.upper()), "tgz_md5", _md5(archive.read_bytes()))
    message = _refused(name, source=archive)
    assert f"damaged or not {name}: its sha256 is {file_digest(archive)}, not {right}" in message


def test_a_download_of_other_bytes_is_refused_and_prepares_nothing(cifar, tmp_path, monkeypatch):
    """Fault 58."""
    name, archive, _ = cifar
    archive.write_bytes(archive.read_bytes()[:-8] + bytes(8))
    with _served(archive, name, monkeypatch), pytest.raises(DataError, match="put the archive"):
        prepare_dataset(name, None, tmp_path / "out", tmp_path / "root", {})
    assert not (tmp_path / "out").exists()


def test_one_wrong_byte_in_an_unpacked_file_is_refused_by_name(cifar, tmp_path):
    """Fault 58."""
    name, archive, _ = cifar
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    for member in ("batches.meta", "data_batch_3") if name == "cifar10" else ("meta", "test"):
        (file,) = tmp_path.glob(f"cifar-*/{member}")
        good = file.read_bytes()
        file.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert str(file) in _refused(name, source=tmp_path)
        file.write_bytes(good)
    _build(name, source=tmp_path)


def test_a_missing_source_or_network_is_one_error_with_the_fix(cifar, tmp_path, monkeypatch):
    import torchvision.datasets as tv

    name, archive, _ = cifar
    assert str(tmp_path / "nowhere") in _refused(name, source=tmp_path / "nowhere")
    monkeypatch.setattr(getattr(tv, name.upper()), "url", f"http://127.0.0.1:9/{archive.name}")  # nothing listens
    assert str(tmp_path / "root" / archive.name) in _refused(
        name, fix="put the archive", download_root=tmp_path / "root"
    )


# -- image folders ----------------------------------------------------------------------------------------------------


def _picture(value, size=(6, 6), mode="RGB"):
    pixels = np.full((size[1], size[0], 3), value, np.uint8)
    pixels[0, 0] = (255, 0, 0)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture
def folder(tmp_path):
    """An image folder with classes ant and bee: three and two to train on, one each to test on."""
    for split, counts in {"train": {"bee": 2, "ant": 3}, "val": {"ant": 1, "bee": 1}}.items():
        for name, count in counts.items():
            place = tmp_path / "images" / split / name
            place.mkdir(parents=True)
            for i in range(count):
                _picture(i * 50).save(place / f"{i}.png")
    return tmp_path / "images"


def test_an_image_folder_is_read_in_the_order_of_class_and_file_name(folder):
    images = image_folder(folder, 6)
    assert images.class_names == ["ant", "bee"]
    assert images.train_labels.tolist() == [0, 0, 0, 1, 1]
    assert images.train_images[:, 5, 5, 0].tolist() == [0, 50, 100, 0, 50]
    assert images.test_images.shape == (2, 6, 6, 3)
    assert images.train_images[0, 0, 0].tolist() == [255, 0, 0]


def test_a_test_split_may_be_called_val_or_test_but_not_both(folder):
    (folder / "val").rename(folder / "test")
    assert image_folder(folder, 6).provenance["test"] == "test"
    shutil.copytree(folder / "test", folder / "val")
    with pytest.raises(DataError, match="both val/ and test/ are there"):
        image_folder(folder, 6)
    shutil.rmtree(folder / "test")
    shutil.rmtree(folder / "val")
    with pytest.raises(DataError, match="neither val/ nor test/ is there"):
        image_folder(folder, 6)


def test_hidden_files_and_files_of_other_kinds_are_passed_over(folder):
    before = image_folder(folder, 6)
    for stray in ("classes.txt", "train/notes.txt", "train/ant/Thumbs.db", "train/ant/.DS_Store", "train/ant/._0.png"):
        (folder / stray).write_bytes(b"stray")
    (folder / "train" / ".cache").mkdir()
    after = image_folder(folder, 6)
    assert np.array_equal(before.train_images, after.train_images)
    assert before.class_names == after.class_names


def test_suffixes_are_read_in_any_case(folder):
    _picture(9).save(folder / "train" / "bee" / "x.JPEG")
    _picture(9).save(folder / "train" / "bee" / "y.Jpg")
    assert len(image_folder(folder, 6).train_images) == 7


def test_an_image_of_another_shape_is_cropped_to_its_centre_and_resized(folder):
    wide = np.zeros((40, 80, 3), np.uint8)
    wide[:, 20:60] = np.indices((40, 40)).sum(0)[..., None] % 2 * 255  # a checkerboard between two black bars
    Image.fromarray(wide).save(folder / "train" / "ant" / "0.png")
    small = image_folder(folder, 6).train_images[0]
    assert small.shape == (6, 6, 3)
    assert abs(small.astype(int) - 128).max() < 20  # without antialiasing it would be black or white


def _fails(folder, *expected, **options):
    with pytest.raises(DataError) as caught:
        image_folder(folder, 6, **options)
    for text in expected:
        assert str(text) in str(caught.value)


def test_a_missing_folder_is_named(folder, tmp_path):
    _fails(tmp_path / "nowhere", tmp_path / "nowhere", "no such folder", "folder: PATH")
    shutil.rmtree(folder / "train")
    _fails(folder, folder / "train", "no such folder")


def test_an_empty_class_is_named(folder):
    shutil.rmtree(folder / "train" / "bee")
    (folder / "train" / "bee").mkdir()
    _fails(folder, folder / "train" / "bee", "no image directly in this class folder")


def test_class_folders_that_differ_between_the_splits_are_named(folder):
    (folder / "val" / "bee").rename(folder / "val" / "wasp")
    _fails(folder, "val/bee: no such class folder", "has bee")
    (folder / "train" / "wasp").mkdir()
    (folder / "val" / "bee").mkdir()
    (folder / "val" / "cat").mkdir()
    _fails(folder, "train/cat: no such class folder", "has cat")


def test_one_class_is_not_a_classification(folder):
    for split in ("train", "val"):
        shutil.rmtree(folder / split / "bee")
    _fails(folder, folder / "train", "got 1 class folders")


@pytest.mark.parametrize("damage", [lambda good: good[:-40], lambda good: b"", lambda good: b"not an image" * 9])
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_damaged_image_is_named(folder, damage, suffix):
    """Fault 13: of what runs in threads, which is decoding an image folder; kd has no worker processes."""
    path = folder / "train" / "ant" / f"1.{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(path)
    path.write_bytes(damage(path.read_bytes()))
    _fails(folder, path, "replace or remove the file")


def test_a_postscript_file_under_an_image_name_reaches_no_interpreter(folder):
    path = folder / "train" / "ant" / "1.png"
    _picture(0).save(path, format="EPS")
    _fails(folder, path, "cannot read this image")


def test_a_broken_link_is_not_passed_over(folder):
    (folder / "train" / "ant" / "5.png").symlink_to(folder / "gone.png")
    _fails(folder, folder / "train" / "ant" / "5.png")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "1", "CMYK"])
def test_images_that_are_not_rgb_are_refused_with_their_number_unless_converted(folder, mode):
    suffix = "jpg" if mode == "CMYK" else "png"
    for i in (1, 2):
        (folder / "train" / "ant" / f"{i}.png").unlink()
        _picture(50, mode=mode).save(folder / "train" / "ant" / f"{i}.{suffix}")
    _fails(folder, folder / "train" / "ant" / f"1.{suffix}", f"2 of 5 (2 {mode})", "convert: rgb")
    images = image_folder(folder, 6, convert="rgb")
    assert images.provenance["converted"] == {mode: 2}
    if mode != "1":
        assert abs(images.train_images[1, 5, 5].astype(int) - 50).max() < 8


def test_transparent_pixels_become_black(folder):
    image = _picture(200, mode="RGBA")
    image.putalpha(0)
    image.save(folder / "train" / "ant" / "0.png")
    _picture(200).save(folder / "train" / "ant" / "1.png", transparency=(200, 200, 200))
    _fails(folder, "RGB+alpha", "RGBA")
    assert not image_folder(folder, 6, convert="rgb").train_images[:2, 5, 5].any()


def test_sixteen_bits_a_channel_are_refused_even_where_conversion_is_asked_for(folder):
    path = folder / "train" / "ant" / "0.png"
    Image.fromarray(np.full((6, 6), 40000, np.uint16)).save(path)
    _fails(folder, path, "more than 8 bits", convert="rgb")


@pytest.mark.parametrize("depth", [2, 3])  # grey, RGB
def test_the_advice_on_a_deep_image_is_not_refused_next(folder, depth):
    Image.new("RGB", (6, 6)).save(folder / "val" / "ant" / "0.png")
    path = folder / "train" / "ant" / "0.png"
    path.write_bytes(_deep_png(depth))
    for options in ({}, {"convert": "rgb"}):
        _fails(folder, path, "more than 8 bits a channel", "save those with 8 bits a channel", **options)
        with pytest.raises(DataError) as caught:
            image_folder(folder, 6, **options)
        assert "convert: rgb" not in str(caught.value)


def _deep_png(kind):
    """Return a PNG of 6 x 6 pixels with 16 bits a channel, grey (2) or RGB (3)."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 6, 6, 16, {2: 0, 3: 2}[kind], 0, 0, 0)
    rows = zlib.compress(6 * (b"\0" + bytes(6 * 2 * {2: 1, 3: 3}[kind])))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def test_images_that_are_not_read_are_refused_with_their_numbers(folder):
    for name in ("a.gif", "b.GIF", "c.avif"):
        (folder / "train" / "ant" / name).write_bytes(b"whatever")
    _fails(folder, folder / "train" / "ant", "3 files are no images to kd (1 .avif, 2 .gif)", "convert them")


def test_images_below_a_class_folder_are_refused(folder):
    (folder / "train" / "ant" / "more").mkdir()
    _picture(0).save(folder / "train" / "ant" / "more" / "7.png")
    _fails(folder, folder / "train" / "ant" / "more", "move them up")


def test_other_files_in_class_folders_are_counted(folder, caplog):
    for name in ("notes.txt", "boxes.txt", "README"):
        (folder / "train" / "ant" / name).write_text("no image")
    assert image_folder(folder, 6).provenance["passed_over"] == {"no suffix": 1, ".txt": 2}
    assert "passed over in class folders" in caplog.text


@pytest.mark.parametrize(("suffix", "kind"), [("jfif", "JPEG"), ("tif", "TIFF"), ("tiff", "TIFF"), ("jpe", "JPEG")])
def test_what_torchvision_reads_and_other_names_of_jpeg_are_read(folder, suffix, kind):
    _picture(9).save(folder / "train" / "bee" / f"x.{suffix}", format=kind)
    assert len(image_folder(folder, 6).train_images) == 6


def test_orientation_tags_are_counted(folder, caplog):
    tag = Image.Exif()
    tag[0x0112] = 6
    _picture(9).save(folder / "val" / "bee" / "x.jpg", exif=tag)
    assert image_folder(folder, 6).provenance["orientation_not_applied"] == 1
    assert "1 images have an orientation tag" in caplog.text


@pytest.fixture
def tiny_imagenet(tmp_path):
    """Tiny ImageNet as it is unpacked, of two classes."""
    root = tmp_path / "tiny-imagenet-200"
    for split in ("val", "test"):
        (root / split / "images").mkdir(parents=True)
    lines = []
    for n, wnid in enumerate(("n01443537", "n01629819")):
        (root / "train" / wnid / "images").mkdir(parents=True)
        (root / "train" / wnid / f"{wnid}_boxes.txt").write_text("0 0 9 9")
        for i in range(2 + n):
            _picture(10 * n + i).save(root / "train" / wnid / "images" / f"{wnid}_{i}.JPEG")
        _picture(100 + n).save(root / "val" / "images" / f"val_{1 - n}.JPEG")
        _picture(200).save(root / "test" / "images" / f"test_{n}.JPEG")
        lines.append(f"val_{1 - n}.JPEG\t{wnid}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(reversed(lines)))
    return root


@pytest.mark.parametrize("streamed", [False, True])
def test_tiny_imagenet_is_read_as_it_is_unpacked(tiny_imagenet, streamed):
    images = image_folder(tiny_imagenet, 6, streamed=streamed)
    assert images.class_names == ["n01443537", "n01629819"]
    assert images.train_labels.tolist() == [0, 0, 1, 1, 1]
    assert images.test_labels.tolist() == [0, 1]
    assert images.provenance["test"] == "val"
    if streamed:
        assert images.test_images["name"].tolist() == [b"val/images/val_1.JPEG", b"val/images/val_0.JPEG"]
    else:
        assert abs(images.test_images[:, 5, 5, 0].astype(int) - [100, 101]).max() < 6


def test_annotations_that_do_not_fit_the_images_are_refused(tiny_imagenet):
    (tiny_imagenet / "val" / "images" / "val_0.JPEG").unlink()
    _fails(tiny_imagenet, "val_annotations.txt", "1 images are named in it, but not there", "val_0.JPEG")


@pytest.mark.parametrize("inside", ["", "images"])
def test_images_without_a_class_are_told_how_to_be_sorted(tiny_imagenet, inside):
    (tiny_imagenet / "val" / "val_annotations.txt").unlink()
    shutil.rmtree(tiny_imagenet / "test")
    (tiny_imagenet / "val" / "images").rename(tiny_imagenet / "moved")
    shutil.rmtree(tiny_imagenet / "val")
    (tiny_imagenet / "moved").rename(tiny_imagenet / "val" if not inside else tiny_imagenet / "moved")
    if inside:
        (tiny_imagenet / "val").mkdir()
        (tiny_imagenet / "moved").rename(tiny_imagenet / "val" / inside)
    _fails(tiny_imagenet, "2 images lie in", "without a class", "val_annotations.txt", "torchvision.datasets.ImageNet")


@pytest.mark.parametrize(
    ("split", "other"), [("val", "valid"), ("val", "validation"), ("train", "Train"), ("train", "training")]
)
def test_a_split_under_another_name_is_named_with_what_to_rename_it_to(folder, split, other):
    (folder / split).rename(folder / other)
    _fails(folder, f"{other}/ is there: rename it to {split}/")


def test_what_systems_leave_behind_is_no_class(folder):
    before = image_folder(folder, 6).class_names
    for junk in ("__MACOSX", "@eaDir"):
        (folder / "train" / junk).mkdir()
        (folder / "train" / "ant" / junk).mkdir()
        _picture(0).save(folder / "train" / "ant" / junk / "0.png")
    assert image_folder(folder, 6).class_names == before


@pytest.mark.parametrize(
    ("fault", "code", "said"),
    [
        (OSError(errno.ESTALE, "Stale file handle"), 74, "may well succeed"),
        (OSError(errno.EIO, "Input/output error"), 74, "may well succeed"),
        (OSError(errno.EMFILE, "Too many open files"), 74, "ulimit -n"),
        (PermissionError(errno.EACCES, "Permission denied"), 74, "not readable for you"),
        (MemoryError(), 137, "out of memory"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_fault_of_the_machine_is_not_one_of_the_image(folder, monkeypatch, fault, code, said, streamed):
    listed_images = image_folder(folder, 6, streamed=True) if streamed else None

    def fails(*arguments, **options):
        raise fault

    monkeypatch.setattr(Image, "open", fails)
    read = partial(Reader(listed_images, ResizedCrops(True)).image, "train", 0) if streamed else None
    with pytest.raises(KdError) as caught:
        (read or partial(image_folder, folder, 6))()
    assert caught.value.exit_code == code
    assert said in str(caught.value)
    assert "replace" not in str(caught.value)


def test_an_unknown_conversion_is_refused(folder):
    with pytest.raises(ConfigError, match="allowed is rgb"):
        image_folder(folder, 6, convert="grey")


@pytest.mark.skipif("KD_TEST_IMAGES" not in os.environ, reason="KD_TEST_IMAGES names no folder of image folders")
def test_real_image_folders_are_prepared_and_verified(tmp_path):
    for number, path in enumerate(
        sorted(path for path in Path(os.environ["KD_TEST_IMAGES"]).iterdir() if path.is_dir())
    ):
        if (path / "train").is_dir():
            manifest = prepare_dataset("mine", {"folder": str(path), "size": 32}, tmp_path / str(number), tmp_path, {})
            dataset = open_dataset(tmp_path / str(number), verify=True)
            assert manifest["counts"]["train"] == len(dataset.train_images)
            assert np.bincount(dataset.train_labels).all()
            with Image.open(next(path.glob(f"train/{dataset.class_names[-1]}/*"))) as image:
                picture = np.asarray(image.convert("RGB"))
            last = dataset.train_images[dataset.train_labels == dataset.classes - 1]
            assert (last == picture).all((1, 2, 3)).any()


# -- on disk ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def digits(tmp_path):
    prepare_dataset("digits", None, tmp_path / "digits", tmp_path, {"kind": "data"})
    return tmp_path / "digits"


def test_what_is_opened_is_what_was_written_mapped_and_read_only(digits):
    built, opened = sources.digits(), open_dataset(digits, verify=True)
    for name in arrays.ARRAYS:
        assert np.array_equal(getattr(opened, name), getattr(built, name))
        assert not getattr(opened, name).flags.writeable
    assert isinstance(opened.train_images, np.memmap)
    assert (opened.mean, opened.std) == (built.mean, built.std)
    assert opened.classes == 10


def test_the_manifest_says_what_the_dataset_is(digits):
    manifest = json.loads((digits / "manifest.json").read_text())
    assert manifest["kind"] == "data"
    assert manifest["declared"] == {}
    assert manifest["counts"] == {"train": 898, "test": 899}
    assert manifest["shape"] == [8, 8, 1]
    assert manifest["class_names"] == list("0123456789")
    assert len(manifest["content"]) == 64
    assert set(manifest["files"]) == {f"{name}.npy" for name in arrays.ARRAYS}


def test_equal_content_has_an_equal_digest_and_any_change_another(digits, tmp_path):
    digest = open_dataset(digits).digest
    again = sources.digits()
    assert write_dataset(again, tmp_path / "again", {"said": "otherwise"})["content"] == digest
    again.test_labels[0] = (again.test_labels[0] + 1) % 10
    assert write_dataset(again, tmp_path / "again", {})["content"] != digest
    again = sources.digits()
    again.mean = (0.5,)
    assert write_dataset(again, tmp_path / "again", {})["content"] != digest


def test_a_flipped_bit_is_found_on_opening_and_in_large_images_on_verifying(digits, monkeypatch):
    """Fault 9, of prepared data."""
    for name, options in (("train_labels.npy", {}), ("test_images.npy", {}), ("test_images.npy", {"verify": True})):
        if options:
            monkeypatch.setattr(arrays, "_ALWAYS_CHECKED", 100)
            open_dataset(digits)
        content = bytearray((digits / name).read_bytes())
        content[-8] ^= 1
        (digits / name).write_bytes(content)
        with pytest.raises(StorageError, match=f"{name}: damaged"):
            open_dataset(digits, **options)
        content[-8] ^= 1
        (digits / name).write_bytes(content)
    open_dataset(digits, verify=True)


def test_truncated_or_missing_images_are_found_on_opening(digits, monkeypatch):
    """Fault 10, of prepared data too large to be read whole each time."""
    monkeypatch.setattr(arrays, "_ALWAYS_CHECKED", 100)
    os.truncate(digits / "train_images.npy", 1000)
    with pytest.raises(StorageError, match=r"train_images.npy: .*remove .*manifest.json and run snakemake"):
        open_dataset(digits)
    (digits / "train_images.npy").unlink()
    with pytest.raises(StorageError, match=r"train_images.npy: .*remove .*manifest.json and run snakemake"):
        open_dataset(digits)


def test_an_array_with_another_shape_than_its_manifest_is_refused(digits, monkeypatch):
    monkeypatch.setattr(arrays, "_ALWAYS_CHECKED", 100)
    np.save(digits / "test_images.npy", np.zeros((3, 8, 8, 1), np.uint8))
    with pytest.raises(StorageError, match="not the 899 images"):
        open_dataset(digits)


def test_nothing_is_published_of_images_that_contradict_themselves(tmp_path):
    good = sources.digits()
    for name, value, message in (
        ("train_labels", good.train_labels[:-1], "for 898 images"),
        ("test_labels", good.test_labels + 1, "allowed are 0 to 9"),
        ("train_images", good.train_images.astype(np.float32), "expected uint8"),
        ("std", (0.0,), "same value in every training pixel"),
        ("mean", (0.1, 0.2), "one number for each of 1"),
    ):
        with pytest.raises(DataError, match=message):
            write_dataset(Images(**{**vars(good), name: value}), tmp_path / "out", {})
    assert not (tmp_path / "out").exists()


def test_an_undeclared_dataset_or_an_unknown_option_is_refused_with_what_is_known(tmp_path):
    with pytest.raises(ConfigError, match="did you mean 'cifar100'"):
        prepare_dataset("cifer100", None, tmp_path, tmp_path, {})
    with pytest.raises(ConfigError, match=r"datasets.digits: .*'source'"):
        prepare_dataset("digits", {"source": "/x"}, tmp_path, tmp_path, {})
    with pytest.raises(ConfigError, match="folder, size, convert"):
        prepare_dataset("mine", {"folder": "/x"}, tmp_path, tmp_path, {})


def test_a_declared_folder_is_prepared_under_its_name(folder, tmp_path):
    declared = {"folder": str(folder), "size": 4, "convert": None, "source": None}
    manifest = prepare_dataset("insects", declared, tmp_path / "out", tmp_path, {"kind": "data"})
    assert manifest["declared"] == {"folder": str(folder), "size": 4}
    assert manifest["listing"] == listed(folder)
    assert open_dataset(tmp_path / "out").class_names == ("ant", "bee")


# -- parts of a dataset -----------------------------------------------------------------------------------------------

LABELS = np.random.default_rng(0).integers(0, 7, 3000)


@given(st.floats(0.001, 1), st.floats(0.001, 1), st.integers(0, 5))
def test_a_smaller_subset_lies_within_a_larger_and_is_balanced(one, other, seed):
    small, large = (subset(LABELS, fraction, seed) for fraction in sorted((one, other)))
    assert np.isin(small, large).all()
    assert np.array_equal(small, np.unique(small))
    counts = np.bincount(LABELS)
    expected = [max(1, round(min(one, other) * n)) for n in counts]
    assert np.bincount(LABELS[small], minlength=7).tolist() == expected


def test_a_subset_of_everything_is_everything():
    assert np.array_equal(subset(LABELS, 1.0), np.arange(len(LABELS)))


def test_what_is_held_out_and_what_is_trained_on_are_all_examples_once():
    train, held = hold_out(LABELS, 0.1, seed=3)
    assert np.array_equal(np.sort(np.concatenate([train, held])), np.arange(len(LABELS)))
    assert np.bincount(LABELS[held]).tolist() == [round(0.1 * n) for n in np.bincount(LABELS)]
    assert len(hold_out(LABELS, 0)[1]) == 0
    assert np.bincount(LABELS[hold_out(LABELS, 0.9999)[0]]).tolist() == [1] * 7  # never a whole class


def test_the_order_of_choice_is_a_function_of_seed_and_example_index_alone():
    # Relabelling the other classes changes nothing for the members of class 0.
    members = np.flatnonzero(LABELS == 0)
    alone = np.where(LABELS == 0, 0, 1)
    for choose in (lambda y, seed: subset(y, 0.3, seed), lambda y, seed: hold_out(y, 0.3, seed)[1]):
        chosen = [np.intersect1d(choose(y, 1), members) for y in (LABELS, alone)]
        assert np.array_equal(*chosen)
        assert not np.array_equal(choose(LABELS, 1), choose(LABELS, 2))


def test_the_held_out_examples_are_the_same_for_every_fraction_of_the_rest():
    train, held = hold_out(LABELS, 0.2)
    for fraction in (0.1, 0.5, 1.0):
        part = subset(LABELS, fraction, among=train)
        assert not np.isin(part, held).any()
        expected = [max(1, round(fraction * n)) for n in np.bincount(LABELS[train])]
        assert np.bincount(LABELS[part]).tolist() == expected
    inner, outer = hold_out(LABELS, 0.5, seed=1, among=train)
    assert np.array_equal(np.sort(np.concatenate([inner, outer])), train)


def test_a_share_out_of_range_is_refused():
    for fraction in (0, -0.1, 1.01, float("nan")):
        with pytest.raises(ConfigError, match="fraction"):
            subset(LABELS, fraction)
    for share in (1, -0.1, float("nan")):
        with pytest.raises(ConfigError, match="heldout"):
            hold_out(LABELS, share)


def test_a_digest_does_not_depend_on_how_an_array_lies_in_memory():
    flat = np.arange(24, dtype=np.int64)
    assert arrays._array_digest(flat) != arrays._array_digest(flat.reshape(4, 6))
    assert arrays._array_digest(flat) == sha256(b"<i8(24,)" + flat.tobytes())
