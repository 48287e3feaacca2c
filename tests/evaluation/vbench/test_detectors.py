"""Detectors of the user's own: what they are handed, and what is said of wrong ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from tts_jax.evaluation.vbench.detectors import DetectorFault, Named, load_detectors
from tts_jax.verifiers.viclip import middle_frames

VIDEO = np.random.default_rng(0).integers(0, 256, (40, 4, 6, 3)).astype(np.uint8)
BOXES = {"class": ["dog"], "box": [[0, 1, 2, 3]]}


def detect(answer, kind="objects", frames=VIDEO):
    return Named("m:f", lambda _: answer).detect(kind, "a-0.mp4", frames)


def test_a_detector_is_handed_the_middle_frames_as_they_are():
    seen = []
    named = Named("m:f", lambda frames: (seen.append(frames), ["a dog"] * 16)[1])
    for frames in (VIDEO, VIDEO[:5]):
        assert named.detect("captions", "a-0.mp4", frames) == ["a dog"] * 16
        np.testing.assert_array_equal(seen[-1], frames[middle_frames(len(frames), 16)])
    assert all(frames.shape == (16, 4, 6, 3) and frames.dtype == np.uint8 for frames in seen)


@pytest.mark.parametrize("array", [np.array, jnp.array])
def test_arrays_stand_for_lists(array):
    boxes = array([[0, 1, 2, 3], [4, 5, 6, 7]])
    (found, *_) = detect([{"class": ("dog", "cat"), "box": boxes}] * 16)
    assert found == {"class": ["dog", "cat"], "box": [[0, 1, 2, 3], [4, 5, 6, 7]]}


def test_a_class_is_made_once_when_it_is_first_asked_and_answers_for_two_kinds():
    made = []

    class Both:
        def __init__(self):
            made.append(self)

        def __call__(self, frames):
            return [{**BOXES, "caption": ["a dog"]}] * len(frames)

    named = Named("m:Both", Both)
    assert made == []
    assert named.detect("objects", "a-0.mp4", VIDEO) == [BOXES] * 16
    captions = {"class": ["dog"], "caption": ["a dog"]}
    assert named.detect("dense_captions", "a-0.mp4", VIDEO) == [captions] * 16
    assert len(made) == 1


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "a list with one item for each of 16 frames is needed, not None"),
        ([BOXES] * 3, "each of 16 frames is needed, not 3 items"),
        ([BOXES] * 15 + ["dog"], "frame 15 needs equally long lists 'class' and 'box', not 'dog'"),
        ([{"class": ["dog"]}] * 16, "frame 0 needs equally long .* not {'class': 1 items}"),
        ([{"class": [3], "box": [[0, 0, 1, 1]]}] * 16, "must be texts, not 3"),
        ([{"class": ["a"], "box": [[0, 1]]}] * 16, r"four numbers.* not \[0, 1\]"),
        ([{"class": ["a"], "box": [[0, 0, 1, "2"]]}] * 16, r"not \[0, 0, 1, '2'\]"),
        ([{"class": ["a"], "box": np.full((1, 4), np.nan)}] * 16, r"four numbers.* not \[nan, nan"),
        ([{"class": ["a"], "box": [object()]}] * 16, "a object is no list, text or number"),
    ],
)
def test_a_wrong_answer_is_said_with_what_is_right(answer, message):
    with pytest.raises(DetectorFault, match=f"^detector m:f on a-0.mp4, objects: .*{message}"):
        detect(answer)


def test_a_detector_that_fails_is_said_with_the_video():
    def fail(_):
        raise KeyError("no weights")

    with pytest.raises(DetectorFault, match=r"m:f fails on a-0\.mp4 with KeyError: 'no weights'"):
        Named("m:f", fail).detect("objects", "a-0.mp4", VIDEO)

    class Broken:
        def __init__(self):
            raise OSError("no weights")

    with pytest.raises(DetectorFault, match="m:Broken cannot be made: OSError: no weights"):
        Named("m:Broken", Broken).detect("objects", "a-0.mp4", VIDEO)


@pytest.mark.parametrize(
    ("kind", "name", "message"),
    [
        ("boxes", "math:sqrt", "no detector finds 'boxes'; there are objects, dense_captions"),
        ("objects", "math", "'math' is not written as package.module:name"),
        ("objects", "no_such.module:f", "no_such.module is not imported: ModuleNotFoundError"),
        ("objects", "math:no_such", "math has nothing that is named 'no_such'"),
        ("objects", "math:pi", "math:pi cannot be called: it is a float"),
    ],
)
def test_a_name_under_which_no_detector_is_found_is_said(kind, name, message):
    with pytest.raises(ValueError, match=message):
        load_detectors({kind: name})
