"""Stage prompts: where they come from, and what a source must not do."""

import json
import sys
import types

import pytest

from tts_jax.language.stage_prompts import (
    ATTEMPTS,
    INSTRUCTION,
    StageModel,
    StagePromptError,
    load_stage_prompts,
    parse_answer,
    read_stage_file,
)
from tts_jax.language.tokenizer import PromptError
from tts_jax.worlds import moving_shapes

PROMPT = "a kettle starts to boil"
STAGES = ("a kettle on a stove", "steam rises from the kettle", "a kettle in a cloud of steam")
GOOD = json.dumps(dict(zip(("scene", "action", "ending"), STAGES, strict=True)))


@pytest.fixture
def plug(monkeypatch):
    """Makes `plugged.model:answer`, which gives these answers in turn; returns the questions."""

    def install(*answers):
        questions, left = [], list(answers)

        def answer(question):
            questions.append(question)
            found = left.pop(0)
            if isinstance(found, Exception):
                raise found
            return found

        module = types.ModuleType("plugged.model")
        module.answer, module.number = answer, 3
        monkeypatch.setitem(sys.modules, "plugged", types.ModuleType("plugged"))
        monkeypatch.setitem(sys.modules, "plugged.model", module)
        return questions

    return install


def model():
    return load_stage_prompts({"source": "model", "model": "plugged.model:answer"})


def test_the_world_splits_its_captions():
    prompts = load_stage_prompts({"source": "world"}, moving_shapes)
    caption = "a red circle moving right and a blue square standing still"
    assert prompts(caption) == moving_shapes.stage_prompts(caption)
    with pytest.raises(StagePromptError, match="COLOUR SHAPE MOTION"):
        prompts(PROMPT)
    assert prompts.calls == 0 and prompts.seconds == 0 and prompts.spent(caption) == (0, 0.0)


def test_without_a_source_every_stage_is_the_prompt():
    assert load_stage_prompts({"source": "prompt"})(PROMPT) == (PROMPT,) * 3


@pytest.mark.parametrize(
    "content",
    [
        {PROMPT: list(STAGES)},
        [{"prompt": PROMPT, "stages": list(STAGES)}],
        [{"prompt_en": f"  {PROMPT.replace(' ', '  ')}\n", "stages": [f"{s} " for s in STAGES]}],
    ],
)
def test_a_file_holds_stages_by_prompt(tmp_path, content):
    path = tmp_path / "stages.json"
    path.write_text(json.dumps(content))
    prompts = load_stage_prompts({"source": "file", "path": str(path)})
    assert prompts(PROMPT) == STAGES
    with pytest.raises(StagePromptError, match="no entry for 'a cat'"):
        prompts("a cat")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "holds no prompt"),
        ("3", "holds no prompt"),
        ('{"a": ["b", "c"]}', "entry 0 .* list of 3 texts"),
        ('{"a": ["b", "c", " "]}', "entry 0 .* ending is no text"),
        ('{"a": ["b", 3, "d"]}', "entry 0 .* action is no text"),
        ('{"a": "bcd"}', "entry 0 .* list of 3 texts"),
        ('{"a": ["b", "c", "d"], "a": ["e", "f", "g"]}', "a key stands there twice"),
        ('{"a": ["b", "c", "d"], " a": ["e", "f", "g"]}', "entry 1 .* other stages"),
        ('["a"]', 'entry 0 .* is no {"prompt"'),
        ('[{"prompt": "a"}]', "entry 0 .* list of 3 texts"),
    ],
)
def test_a_file_of_another_form_is_an_error(tmp_path, content, message):
    path = tmp_path / "stages.json"
    path.write_text(content)
    with pytest.raises(StagePromptError, match=message):
        read_stage_file(path)


def test_a_model_is_asked_once_a_prompt_and_its_cost_is_known(plug):
    questions = plug(GOOD, GOOD)
    prompts = model()
    assert prompts(PROMPT) == prompts(PROMPT) == STAGES
    assert questions == [INSTRUCTION.format(prompt=PROMPT)]
    assert prompts("a dog") == STAGES
    assert prompts.calls == 2 and prompts.seconds > 0
    assert prompts.spent(PROMPT)[0] == prompts.spent("a dog")[0] == 1
    assert prompts.spent(PROMPT)[1] + prompts.spent("a dog")[1] == pytest.approx(prompts.seconds)


def test_an_unusable_answer_is_asked_for_again_with_its_fault(plug):
    questions = plug("Here you are!", '{"scene": "a"}', GOOD)
    prompts = model()
    assert prompts(PROMPT) == STAGES and prompts.spent(PROMPT)[0] == 3
    assert "not one JSON object" in questions[1]
    assert "its keys are ['scene']" in questions[2] and "not one JSON object" not in questions[2]
    assert all(question.startswith(questions[0]) for question in questions)


def test_attempts_are_bounded_and_then_the_whole_prompt_stands_at_every_stage(plug):
    questions = plug(*["no"] * 10)
    with pytest.warns(UserWarning, match=f"{PROMPT!r} in {ATTEMPTS} attempts.* not one JSON"):
        assert model()(PROMPT) == (PROMPT,) * 3
    assert len(questions) == ATTEMPTS


def test_answers_are_kept_on_disk_by_model_and_prompt(tmp_path):
    asked = []

    def answer(question):
        asked.append(question)
        return GOOD

    def ask(prompt, identity="one"):
        return StageModel("scripted", answer, cache=tmp_path, identity=identity)(prompt)

    assert ask(PROMPT) == ask(PROMPT) == STAGES and len(asked) == 1
    assert ask("a dog") == ask(PROMPT, "two") == STAGES and len(asked) == 3
    for path in tmp_path.iterdir():
        path.write_text("{")  # as good as none
    assert ask(PROMPT) == STAGES and len(asked) == 4
    with pytest.raises(StagePromptError, match="cannot be written"):
        StageModel("scripted", answer, cache=next(tmp_path.iterdir()))(PROMPT)


@pytest.mark.parametrize(
    ("answer", "message"),
    [(MemoryError("too big"), "MemoryError: too big"), (7, "gave int, not a text")],
)
def test_a_model_that_fails_is_not_asked_again(plug, answer, message):
    questions = plug(answer, GOOD)
    prompts = model()
    with pytest.raises(StagePromptError, match=message):
        prompts(PROMPT)
    assert len(questions) == 1 and prompts.calls == 1


@pytest.mark.parametrize(
    "text", [GOOD, f" {GOOD}\n", f"```json\n{GOOD}\n```", f"```\n{GOOD}\n```\n"]
)
def test_an_answer_is_the_object_bare_or_fenced(text):
    assert parse_answer(text) == STAGES


@pytest.mark.parametrize(
    "text",
    [
        "",
        f"Sure: {GOOD}",
        f"{GOOD} Done.",
        f"{GOOD}{GOOD}",
        f"[{GOOD}]",
        json.dumps(list(STAGES)),
        GOOD.replace("scene", "setting"),
        GOOD.replace("}", ', "note": "x"}'),
        GOOD.replace("}", ', "scene": "x"}'),
        GOOD.replace(STAGES[1], ""),
        GOOD.replace(f'"{STAGES[1]}"', "null"),
    ],
)
def test_any_other_answer_is_refused(text):
    with pytest.raises(StagePromptError):
        parse_answer(text)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"source": "guess"}, "'guess' is none of world, file, model, decoder, prompt"),
        ({"source": "world"}, "no captioned world"),
        ({"source": "file"}, "needs a path"),
        ({"source": "file", "path": "/no/such.json"}, "cannot be read: No such file"),
        ({"source": "decoder"}, "needs a path"),
        ({"source": "model"}, "needs a model"),
        ({"source": "model", "model": "plugged.model"}, "package.module:function"),
        ({"source": "model", "model": "no.such:thing"}, "cannot be loaded: No module"),
        ({"source": "model", "model": "plugged.model:no"}, "cannot be loaded: .* 'no'"),
        ({"source": "model", "model": "plugged.model:number"}, "is not a function"),
    ],
)
def test_a_source_that_lacks_what_it_needs_is_an_error_at_once(plug, config, message):
    plug()
    with pytest.raises(PromptError, match=message):
        load_stage_prompts(config)
