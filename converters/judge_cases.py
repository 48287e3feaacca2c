"""What is recorded of each judge in a golden folder, and how to run it; see `converters.cases`.

Tolerances are absolute: 1e-4 for states, 2e-4 for logits, of models whose states are of size one.

B branches  T frames  H W size  L tokens  R visual rows  D width.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from converters.cases import Case, Output, Run, Tensors, channels_last
from converters.registry import COMPONENTS
from tts_jax.verifiers.image_selector import ImageSelector
from tts_jax.verifiers.judging import ROW, ask, begin, weave
from tts_jax.verifiers.videollama3 import VideoLLaMA3
from tts_jax.verifiers.videoreward import NAMES, VideoReward
from tts_jax.verifiers.videoscore import VideoScore
from tts_jax.verifiers.visionreward import (
    VisionReward,
    VisionRewardConfig,
    compressed_positions,
    expert_rows,
)
from tts_jax.vision.preprocess import CLIP_MEAN, CLIP_STD
from tts_jax.vision.resize import normalise_levels
from tts_jax.vision.siglip import MEAN, STD, bucketed_places

STATES, LOGITS, PROBABILITIES = 1e-4, 2e-4, 1e-6


def _outputs(found: Mapping[str, Array], tensors: Tensors) -> Iterator[Output]:
    """Those that are recorded, in the shapes in which they are."""
    for name, values in found.items():
        if name in tensors:
            atol = LOGITS if "logits" in name else STATES
            yield Output(name, np.reshape(values, tensors[name].shape), tensors[name], atol, rtol=0)


def _answer(run: Run, tensors: Tensors, name: str, logits: Array) -> Iterator[Output]:
    """Probabilities of yes and no after the last token, if `config.json` says what these are."""
    if name in tensors and {"yes_token_id", "no_token_id"} <= set(run.fields):
        ids = [run.field("yes_token_id"), run.field("no_token_id")]
        found = jax.nn.softmax(jnp.asarray(logits))[np.array(ids)]
        yield Output(name, found, tensors[name], PROBABILITIES, rtol=0)


def _places(ids: np.ndarray, row: int) -> list[int]:
    """Token ids with `ROW` where visual rows stand."""
    return [ROW if token == row else int(token) for token in ids]


def videoscore_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """One sequence of VideoScore, whose frames may be padded; padding does not count."""
    mask = tensors["patch_attention_mask"].astype(bool)
    image = run.field("image_token_id")
    ids = tensors["input_ids"][0]
    start = int(np.flatnonzero(ids == image)[0]) - 1  # a token stands before and after every frame
    text = np.pad(ids[:start], (0, 3)).astype(np.int32)

    def judge(model: VideoScore, pixels, text):
        places = np.zeros(mask.shape, int)
        for place, frame in zip(places, mask, strict=True):
            rows, columns = frame[:, 0].sum(), frame[0].sum()
            place[:rows, :columns] = bucketed_places(rows, columns, model.config.vision.side)
        states = model.vision(pixels, jnp.asarray(mask), jnp.asarray(places))
        states = states.reshape(len(mask), -1, states.shape[-1])
        projected = model.projection(states)
        rows = model.perceiver(projected, mask.reshape(len(mask), -1))
        joined = rows.reshape(1, -1, rows.shape[-1])
        hidden = model.states(
            text, np.arange(len(text)) < start, _places(ids[start:], image), joined
        )
        return states, projected, rows, hidden, model.score(hidden)

    pixels = channels_last(tensors["pixel_values"][0])
    states, projected, rows, hidden, outputs = run(judge, pixels, text)
    real = mask.reshape(len(mask), -1)
    recorded = {name: x for name, x in tensors.items() if not name.endswith("_all_positions")}
    found = {"connector.out": rows, "logits": outputs[:, -1]}
    for name, values in (
        ("vision.last_hidden_state", states),
        ("connector.modality_projection", projected),
    ):
        if name in recorded:
            recorded[name] = recorded[name].reshape(values.shape)[real]
            found[name] = np.asarray(values)[real]
    for name, ours, values in (
        ("final_hidden", "final_hidden", hidden),
        ("logits_all_positions", "logits of the video", outputs),
    ):
        if name in tensors:
            recorded[ours], found[ours] = tensors[name][:, start:], values
    yield from _outputs(found, recorded)


def visionreward_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Frames of CogVLM2-Video, and sequences of either layout, whole, asked and continued."""

    def see(model: VisionReward, pixels):
        tower = model.vision
        states = tower.encode(pixels)
        pooled = tower.pool(states)
        return tower.embed(pixels), states, pooled, tower.adapt(pooled)

    seen = run(see, channels_last(tensors["pixel_values"]))
    names = ("vision.patch_embed", "vision.transformer", "vision.conv", "vision.out")
    yield from _outputs(dict(zip(names, seen, strict=True)), tensors)
    rows = seen[-1].reshape(1, -1, seen[-1].shape[-1])
    for name in tensors:
        if name.endswith(".token_type_ids"):
            yield from _cogvlm_outputs(run, tensors, name.removesuffix("token_type_ids"), rows)


def _cogvlm_outputs(run: Run, tensors: Tensors, layout: str, rows: Array) -> Iterator[Output]:
    visual = tensors[f"{layout}token_type_ids"][0] == 1
    ids = np.where(visual, ROW, tensors[f"{layout}input_ids"][0])
    positions = compressed_positions(visual)
    split = (int(np.flatnonzero(visual)[-1]) + 1 + len(ids)) // 2
    none = np.zeros(0)
    more = tensors.get(f"{layout}decode.token_ids", none).astype(np.int32)
    places = tensors.get(f"{layout}decode.position_ids", none).astype(np.int32)

    def judge(model: VisionReward, rows, question):
        decoder = model.decoder
        x = weave(decoder, ids, rows)
        cache = decoder.cache(1, len(ids) + len(more))
        hidden, cache = decoder(x, jnp.asarray(positions)[None], cache=cache)

        def step(cache, token):
            index, place = token
            out, cache = decoder(decoder.embed(index)[None, None], place[None, None], cache=cache)
            return cache, decoder.logits(out[0, 0])

        steps = jax.lax.scan(step, cache, (jnp.asarray(more), jnp.asarray(places)))[1]
        prefix = begin(decoder, ids[:split], rows, positions=positions[:split])
        answer = decoder.logits(ask(decoder, prefix, question, question >= 0))[0, 0]
        return x, hidden, decoder.logits(hidden), steps, answer

    question = ids[None, split:].astype(np.int32)
    *found, answer = run(judge, rows, question)
    names = ("inputs_embeds", "final_hidden", "logits", "decode.logits")
    named = {f"{layout}{n}": x for n, x in zip(names, found, strict=True)}
    if (name := f"{layout}position_ids") in tensors:
        yield Output(name, positions, tensors[name][0], atol=0, rtol=0)
    yield from _outputs(named, tensors)
    yield Output(
        f"{layout}logits, asked", answer, tensors[f"{layout}logits"][0, -1], LOGITS, rtol=0
    )
    yield from _answer(run, tensors, f"{layout}p_yes_no", answer)


def cogvlm2_image_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """An image of CogVLM2, whose rows pass the experts of their own, and the text around it."""
    visual = tensors["token_type_ids"][0] == 1
    ids = np.where(visual, ROW, tensors["input_ids"][0])
    expert, positions = expert_rows(visual), compressed_positions(visual)

    def judge(model: VisionReward, pixels):
        rows = model.vision(pixels)
        x = weave(model.decoder, ids, rows)
        hidden, _ = model.decoder(x, jnp.asarray(positions)[None], visual=jnp.asarray(expert)[None])
        return rows, x, hidden, model.decoder.logits(hidden)

    for name, found in (("vision_expert_mask", expert), ("position_ids", positions)):
        if name in tensors:
            yield Output(name, found, tensors[name][0], atol=0, rtol=0)
    found = run(judge, channels_last(tensors["pixel_values"]))
    names = ("vision.out", "inputs_embeds", "final_hidden", "logits")
    yield from _outputs(dict(zip(names, found, strict=True)), tensors)


def videollama3_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """A video of VideoLLaMA3, the rows that are left out, and the answer after its last tokens."""
    whole = _places(tensors["input_ids_uncompressed"][0], run.field("image_token_index"))
    split = (len(whole) + len(whole) - 1 - whole[::-1].index(ROW)) // 2 + 1
    pixels = normalise_levels(jnp.asarray(tensors["video_uint8"], jnp.float32), MEAN, STD)

    def judge(model: VideoLLaMA3, pixels, question):
        features = model.features(pixels)
        rows, keep = model.projector(features), model.keep(pixels[None])
        joined = rows.reshape(1, -1, rows.shape[-1])
        prefix = begin(model.decoder, whole[:split], joined, keep=keep.reshape(1, -1))
        states = ask(model.decoder, prefix, question, jnp.ones(question.shape, bool))
        return features, rows, keep[0], prefix.positions, model.decoder.logits(states)[0, 0]

    question = np.asarray(whole[split:], np.int32)[None]
    features, rows, keep, positions, logits = run(judge, pixels, question)
    read = int((positions >= 0).sum()) + question.size
    exact = {
        "compression_mask": np.asarray(keep).ravel(),
        "tokens_per_frame": np.asarray(keep).sum(1),
        "input_ids": np.array(read),
    }
    for name, found in exact.items():
        if name in tensors:
            wanted = tensors[name] if name != "input_ids" else np.array(tensors[name].shape[1])
            yield Output(name, found, wanted, atol=0, rtol=0)
    yield from _outputs({"vision.out": features, "projector.out": rows}, tensors)
    yield Output("logits", logits, tensors["logits"][0, -1], LOGITS, rtol=0)
    yield from _answer(run, tensors, "p_yes_no", logits)


def image_selector_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """A padded image of LLaVA-OneVision between two texts."""
    before = [int(token) for token in tensors["prefix_ids"]]

    def judge(model: ImageSelector, pixels, question):
        features = model.features(pixels)
        rows = model.see(pixels)
        ids = [*before, *[ROW] * rows.shape[1]]
        states = ask(model.decoder, begin(model.decoder, ids, rows), question, question >= 0)
        return features, rows, model.decoder.logits(states)[0, 0]

    question = tensors["suffix_ids"].astype(np.int32)[None]
    features, rows, logits = run(judge, channels_last(tensors["pixel_values"]), question)
    found = {"vision.features": features, "projector.out": rows[:, :-1]}
    yield from _outputs(found, tensors)
    yield Output("logits", logits, tensors["logits"][0, -1], LOGITS, rtol=0)
    yield from _answer(run, tensors, "p_yes_no", logits)


def merge_order(x: np.ndarray, merge: int) -> np.ndarray:
    """Patches [T, h, w, ...] with the neighbours of one row together, [T * h * w, ...]."""
    count, rows, columns = x.shape[:3]
    x = x.reshape(count, rows // merge, merge, columns // merge, merge, *x.shape[3:])
    return x.swapaxes(2, 3).reshape(count * rows * columns, *x.shape[5:])


def videoreward_outputs(run: Run, tensors: Tensors) -> Iterator[Output]:
    """Videos of VideoReward with their texts, with positions on one axis and, if so, on three."""
    video = run.field("video_token_id")
    marks = [run.field("special_token_ids")[name] for name in NAMES]
    parts = []
    for index in range(len(tensors["input_ids"])):
        ids = tensors["input_ids"][index][tensors["attention_mask"][index].astype(bool)]
        levels = tensors[f"video_{index}_uint8"].astype(np.float32)
        pixels = (levels / 255 - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)
        axes = tensors.get("mrope.position_ids")
        axes = None if axes is None else axes[:, index : index + 1, : len(ids)].swapaxes(0, 1)
        parts.append(_reward(run, pixels, _places(ids, video), axes, marks))
    found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    yield from _outputs(found, tensors)


def _reward(
    run: Run, pixels: np.ndarray, ids: Sequence[int], axes: np.ndarray | None, marks: Sequence[int]
) -> dict[str, np.ndarray]:
    stop = len(ids) - ids[::-1].index(ROW)
    text = np.asarray(ids[stop:], np.int32)

    def judge(model: VideoReward, pixels, text):
        depth = model.config.vision.depth
        states = model.vision(pixels.reshape(-1, depth, *pixels.shape[1:]))
        rows = model.vision.merge(states)
        joined = rows.reshape(1, -1, rows.shape[-1])
        prefix = begin(model.decoder, ids[:stop], joined)
        flat = model.rewards(prefix, text, jnp.ones(text.shape, bool), marks)
        normalised = model.normalised(flat)
        found = {
            "vision.blocks_out": jnp.asarray(merge_order(states, model.config.vision.merge)),
            "vision.merger_out": joined[0],
            "flat.logits": flat,
            "normalised": normalised,
            "overall": normalised.sum(-1),
        }
        if axes is not None:
            hidden, _ = model.decoder(weave(model.decoder, ids, joined), jnp.asarray(axes))
            found["mrope.logits"] = model.read(hidden, jnp.asarray([ids]), marks)
        return found

    return jax.tree.map(np.asarray, run(judge, pixels, text))


_IMAGE_MODEL = dataclasses.replace(
    COMPONENTS["visionreward_video"],
    read=functools.partial(VisionRewardConfig.from_reference, expert=True),
)
CASES = {
    "videoscore": (Case("videoscore", videoscore_outputs),),
    "cogvlm2_video": (Case("visionreward_video", visionreward_outputs),),
    "cogvlm2_visual_expert": (Case("cogvlm2_image", cogvlm2_image_outputs, _IMAGE_MODEL),),
    "videollama3": (Case("videollama3_7b", videollama3_outputs),),
    "llava_onevision_orm": (Case("llava_onevision_qwen2_7b", image_selector_outputs),),
    "videoreward": (Case("videoreward_merged", videoreward_outputs),),
}
