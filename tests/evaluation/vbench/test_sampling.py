"""Which files are read, and which are said to be missing."""

import pytest

from tts_jax.evaluation.vbench.sampling import (
    choose_static,
    find_videos,
    missing_videos,
    video_name,
)


def test_the_first_five_static_files_of_each_prompt_are_kept_in_the_order_of_their_names():
    files = [video_name("a cat", i) for i in range(12)] + [video_name("a dog", 0)]
    asked = []

    def is_static(path):
        asked.append(path.name)
        return path.name not in ("a cat-1.mp4", "a dog-0.mp4")

    kept = choose_static(reversed(files), is_static)
    names = [path.name for path in kept["a cat"]]
    assert names == [f"a cat-{i}.mp4" for i in (0, 10, 11, 2, 3)]
    assert kept["a dog"] == []
    assert "a cat-4.mp4" not in asked


def test_missing_files_are_named(tmp_path):
    for index in (0, 2):
        (tmp_path / video_name("a cat", index)).touch()
    missing = missing_videos(tmp_path, ["a cat", "a dog"], count=3)
    assert missing == ["a cat-1.mp4", "a dog-0.mp4", "a dog-1.mp4", "a dog-2.mp4"]


def test_a_folder_without_videos_is_refused(tmp_path):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match="there is no"):
        find_videos(tmp_path)
    (tmp_path / "b-0.mp4").touch()
    (tmp_path / "a-0.GIF").touch()
    assert [path.name for path in find_videos(tmp_path)] == ["a-0.GIF", "b-0.mp4"]
