"""Files written by tts_jax.media: they hold the frames, and equal frames give equal bytes."""

import os
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tts_jax import media

WRITERS = {"mp4": media.write_mp4, "gif": media.write_gif}


def shapes(frames=9, height=32, width=32):
    """A bright square that moves over a dark ground."""
    video = np.full((frames, height, width, 3), 0.1, np.float32)
    for t in range(frames):
        video[t, 8:16, 2 * t : 2 * t + 8] = (0.9, 0.2, 0.1)
    return video


def read(path):
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            frames = [
                frame.to_ndarray(format="rgb24", src_colorspace="ITU709")
                for frame in container.decode(video=0)
            ]
        return np.stack(frames) / 255
    with Image.open(path) as image:
        frames = []
        for t in range(image.n_frames):
            image.seek(t)
            frames.append(np.asarray(image.convert("RGB")) / 255)
    return np.stack(frames)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_small_video_is_enlarged_by_whole_pixels_and_keeps_its_colours(tmp_path, kind):
    frames = shapes()
    WRITERS[kind](tmp_path / f"v.{kind}", frames, size=256)
    seen = read(tmp_path / f"v.{kind}")
    assert seen.shape == (9, 256, 256, 3)
    np.testing.assert_allclose(seen[:, 4::8, 4::8], frames, atol=0.04)


@pytest.mark.parametrize("kind", WRITERS)
def test_equal_frames_give_equal_bytes(tmp_path, kind):
    for name in "ab":
        WRITERS[kind](tmp_path / f"{name}.{kind}", shapes())
    first, second = ((tmp_path / f"{name}.{kind}").read_bytes() for name in "ab")
    assert first == second


def test_an_mp4_of_odd_size_is_padded_by_its_edge(tmp_path):
    media.write_mp4(tmp_path / "v.mp4", shapes(height=33, width=41), size=0)
    assert read(tmp_path / "v.mp4").shape == (9, 34, 42, 3)


def test_the_speed_of_an_mp4_is_what_was_asked(tmp_path):
    media.write_mp4(tmp_path / "v.mp4", shapes(), fps=24)
    with av.open(str(tmp_path / "v.mp4")) as container:
        assert container.streams.video[0].average_rate == 24


def test_what_is_not_a_number_is_black():
    image = np.array([np.nan, -1.0, 0.5, 2.0], np.float32)
    assert media.to_uint8(image).tolist() == [0, 0, 128, 255]


def test_a_picture_is_written_exactly(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    media.write_png(tmp_path / "p.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "p.png")), picture)


@pytest.mark.parametrize("shape", [(32, 32, 3), (9, 32, 32, 1), (0, 32, 32, 3)])
def test_frames_of_another_shape_are_refused(tmp_path, shape):
    with pytest.raises(ValueError, match="frames must be"):
        media.write_mp4(tmp_path / "v.mp4", np.zeros(shape))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_that_is_not_there_is_one_error_that_names_the_file(tmp_path, kind):
    path = tmp_path / "nowhere" / f"v.{kind}"
    with pytest.raises(media.MediaError, match=f"cannot write .*v.{kind}: No such file"):
        WRITERS[kind](path, shapes())


def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    media.write_bytes(path, b"old")

    def full(self, data):
        with open(self, "wb") as file:
            file.write(data[:1])
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(media.MediaError, match="file: No space left on device"):
        media.write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_written_video_is_read_back_with_its_rate(tmp_path):
    frames = shapes()
    media.write_mp4(tmp_path / "a.mp4", frames, fps=12, size=0)
    found, rate = media.read_video(tmp_path / "a.mp4")
    assert rate == 12 and found.dtype == np.uint8
    np.testing.assert_allclose(found / 255, read(tmp_path / "a.mp4"))
    media.write_gif(tmp_path / "a.gif", frames, fps=10, size=0)
    found, rate = media.read_video(tmp_path / "a.gif")
    assert found.shape == frames.shape and rate == 10


def test_what_is_no_video_is_not_read(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"no video")
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            media.read_video(tmp_path / name)
