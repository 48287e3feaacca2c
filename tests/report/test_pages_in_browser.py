"""The pages of a run and of a sweep in a headless Chromium: what they show, and how they behave.

The same run and sweep are written for TensorBoard.
"""

import io
import json
import re
import shutil
import struct

import pytest
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait
from tensorboardX.proto.event_pb2 import Event

from experiments import cli, generate, sweep
from experiments.models import Models, load_search
from tests.search.analytic import Exact, Flow, Linear, Mixture, direction
from tts_jax.language.stage_prompts import load_stage_prompts
from tts_jax.verifiers.panel import Panel

INSTALL = "tests/install_browser.sh"
PROMPTS = ("a <b>red</b> circle & 'a cross'", "two")
UNITS, FRAMES = 3, 2
GRID = """
from configs import sweep

def get_config():
    config = sweep.get_config()
    del config.sweep.searches, config.sweep.panels
    config.sweep.searches = dict(
        linear=dict(preset="random_linear", budgets=(1, 3)),
        tree=dict(preset="tree_of_frames", budgets=dict(small=dict(branching=(3, 1, 1)))),
    )
    config.sweep.panels = dict(reward=dict(reward=1.0))
    return config
"""
TREE = (
    "--config.search.branching=(4,2,1)",
    "--config.search.image_keep=0",
    "--config.search.judge_depths=(0,1)",
    "--config.search.keep=(2,2)",
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of a searched prompt and of a sweep, by the programs, with exact models."""
    generator = Exact(Mixture.random(frames=FRAMES, spread=4.0), Flow, UNITS, 1, 3)
    target = direction(UNITS * FRAMES)
    verifiers = [Linear(target), Linear(-target, name="other")]
    models = Models(
        generator=generator,
        generator_params=generator.params,
        panel=Panel(verifiers, [1.0, 0.5]),
        verifier_params={verifier.name: {} for verifier in verifiers},
        world=None,
        stage_prompts=load_stage_prompts({"source": "prompt"}, None),
    )
    folder = tmp_path_factory.mktemp("pages")
    (folder / "grid.py").write_text(GRID)
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    search = load_search(cli.parse(["generate", "--config.mesh.branch=1"]).config, models)
    with pytest.MonkeyPatch.context() as patch:
        for program in (generate, sweep):
            patch.setattr(program, "open_search", lambda *_, **__: (models, search))
        for program, arguments in (
            (generate, [f"--prompt={PROMPTS[0]}", *TREE]),
            (sweep, [f"--config={folder}/grid.py", f"--prompts_file={folder}/prompts.txt"]),
        ):
            name = program.__name__.rpartition(".")[2]
            argv = [name, *arguments, f"--workdir={folder / name}", "--tensorboard"]
            assert cli.run(program.main, doc="", define=program.define, argv=argv) == 0
    return folder


@pytest.fixture(scope="module")
def pages(runs):
    """The page of each."""
    return {"run": runs / "generate/prompts/0/report.html", "sweep": runs / "sweep/report.html"}


@pytest.fixture(scope="module")
def chromium():
    """The browser, driven; its absence is a failure."""
    paths = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in paths:
        pytest.fail(f"chromium and chromedriver are needed; this installs them: {INSTALL}")
    options = webdriver.ChromeOptions()
    options.binary_location = paths[0]
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        driver = webdriver.Chrome(options, webdriver.ChromeService(paths[1]))
    except WebDriverException as error:
        pytest.fail(f"chromium does not start ({error.msg}); this installs it: {INSTALL}")
    yield driver
    driver.quit()


@pytest.fixture
def browser(chromium):
    """`browser(page, width, scheme)`: the page, opened; a word in the console fails the test."""

    def visit(page, width=1400, scheme="light"):
        size = dict(width=width, height=900, deviceScaleFactor=1, mobile=width < 600)
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        chromium.get(page.as_uri())
        return chromium

    chromium.get_log("browser")
    yield visit
    assert chromium.get_log("browser") == []


def shown(number):
    """A score as the page writes it."""
    return f"{number:.3f}".replace("-", "−")


def indexed(driver, selector):
    """Drawn branches by their places in tree.json."""
    found = driver.find_elements(By.CSS_SELECTOR, selector)
    return {int(node.get_attribute("data-index")): node for node in found}


def looked_at(driver):
    """What the inspector says: the branch, and its scores by verifier."""
    inspector = driver.find_element(By.ID, "inspector")
    rows = driver.execute_script(
        "return [...arguments[0].querySelectorAll('tbody tr')].map("
        "row => [...row.cells].slice(0, 2).map(cell => cell.firstChild.textContent))",
        inspector,
    )
    title = inspector.find_element(By.TAG_NAME, "h3")
    name = driver.execute_script("return arguments[0].firstChild.textContent", title)
    return name.removeprefix("Path "), dict(rows)


def told(node):
    """What it shall say of a node of tree.json."""
    scores = {"panel": node["value"], **node["scores"]}
    return " ".join(map(str, node["path"])), {name: shown(x) for name, x in scores.items()}


@pytest.fixture(scope="module")
def tree(pages):
    return json.loads(pages["run"].with_name("tree.json").read_text())


def test_every_node_is_in_the_tree_and_tells_its_scores_under_the_mouse(browser, pages, tree):
    driver = browser(pages["run"])
    assert driver.find_element(By.TAG_NAME, "h1").text == PROMPTS[0]
    drawn = indexed(driver, ".node")
    assert sorted(drawn) == list(range(len(tree["nodes"])))
    for index, node in enumerate(tree["nodes"]):
        ActionChains(driver, duration=0).move_to_element(drawn[index]).perform()
        assert looked_at(driver) == told(node)
    last = max(node["round"] for node in tree["nodes"])
    assert set(indexed(driver, ".node.pruned")) == {
        i for i, n in enumerate(tree["nodes"]) if not n["kept"] and n["round"] < last
    }


def test_keys_walk_the_tree_and_choose_two_branches_to_compare(browser, pages, tree):
    driver = browser(pages["run"])
    by_path = {tuple(node["path"]): node for node in tree["nodes"]}
    best = tuple(tree["best"])
    driver.find_element(By.CSS_SELECTOR, ".node.winner").send_keys("")
    for length in (2, 1):
        driver.switch_to.active_element.send_keys(Keys.ARROW_LEFT)
        assert looked_at(driver) == told(by_path[best[:length]])
    driver.switch_to.active_element.send_keys(Keys.HOME)
    assert looked_at(driver) == told(by_path[(0,)])
    driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    driver.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
    driver.switch_to.active_element.send_keys(Keys.ENTER)
    sides = [side.text for side in driver.find_elements(By.CSS_SELECTOR, "#compare .contender")]
    for side, path in zip(sides, ((0,), (1,)), strict=True):
        assert f"Path {path[0]}\n" in side and shown(by_path[path]["value"]) in side
    assert "--path=1" in driver.find_element(By.ID, "replay").text


DECODED = """
const [name, done] = arguments;
const sprites = name === "run" ? [...DATA.sprites, DATA.winner_sprite, DATA.single_sprite]
  : DATA.examples.flatMap((example) => example.videos.map((video) => video.sprite));
Promise.all(sprites.map(async (sprite) => {
  const image = new Image();
  image.src = sprite.src;
  await image.decode();
  const canvas = new OffscreenCanvas(image.width, image.height).getContext("2d");
  canvas.drawImage(image, 0, 0);
  const pixels = canvas.getImageData(0, 0, image.width, image.height).data;
  const size = [image.width, image.height];
  return [...size, sprite.width * sprite.frames, sprite.height, new Set(pixels).size];
})).then(done, (error) => done(String(error)));
"""


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_videos_decode_and_play(browser, pages, name):
    driver = browser(pages[name])
    found = driver.execute_async_script(DECODED, name)
    assert found and not isinstance(found, str), found
    for width, height, *wanted, colours in found:
        assert [width, height] == wanted and colours > 2
    player = driver.find_element(By.CSS_SELECTOR, "#versus .player, #examples .player")
    places = set()
    WebDriverWait(driver, 30, 0.05).until(
        lambda _: places.add(player.value_of_css_property("background-position")) or len(places) > 2
    )


def test_a_browser_plays_the_written_video(browser, pages):
    driver = browser(pages["run"])
    size = driver.execute_async_script(
        "const video = document.createElement('video'), done = arguments[1];"
        "video.onloadeddata = () => done([video.videoWidth, video.videoHeight, video.duration]);"
        "video.onerror = () => done(video.error.message); video.src = arguments[0];",
        pages["run"].with_name("best.mp4").as_uri(),
    )
    assert size == [256, 256, pytest.approx(UNITS * FRAMES / 8, abs=0.01)]


@pytest.mark.parametrize("name", ["run", "sweep"])
def test_a_page_is_one_small_file_that_fits_a_phone_and_the_dark(browser, pages, name):
    assert pages[name].stat().st_size < 5_000_000
    for width, scheme in ((320, "dark"), (390, "light"), (1400, "dark")):
        driver = browser(pages[name], width, scheme)
        wide, loaded = driver.execute_script(
            "return [document.documentElement.scrollWidth,"
            "performance.getEntriesByType('resource').filter(r => !r.name.startsWith('data:'))]"
        )
        assert wide <= width and loaded == []
        text, paper = (
            luminance(driver.find_element(By.TAG_NAME, "body").value_of_css_property(part))
            for part in ("color", "background-color")
        )
        assert (text > paper) == (scheme == "dark")
        assert (max(text, paper) + 0.05) / (min(text, paper) + 0.05) > 7


def luminance(colour):
    """Relative luminance of a CSS colour, as WCAG 2 defines it."""
    channels = [int(x) / 255 for x in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def written(folder):
    """What is written for TensorBoard: (line, tag, step) to a number or a picture."""
    found = {}
    for file in folder.rglob("events.*"):
        data = file.read_bytes()
        while data:  # length, its checksum, event, its checksum
            end = 12 + struct.unpack("<Q", data[:8])[0]
            event, data = Event.FromString(data[12:end]), data[end + 4 :]
            for value in event.summary.value:
                key = str(file.parent.relative_to(folder)), value.tag, event.step
                picture = value.image.encoded_image_string
                found[key] = picture or value.simple_value
    return found


def test_tensorboard_shows_the_scores_and_the_video_of_a_run(runs, pages, tree):
    found = written(runs / "generate/tensorboard")
    for line, role in (("winner", "winner"), ("single sample", "single")):
        assert found[line, "panel", 0] == pytest.approx(tree[role]["panel"], rel=1e-6)
        for name, score in tree[role]["scores"].items():
            assert found[line, f"score/{name}", 0] == pytest.approx(score, rel=1e-6)
    assert found["search", "cost/nfe", 0] == tree["cost"]["total"]["nfe"]
    assert (
        found["winner", f"video/{PROMPTS[0]}", 0] == pages["run"].with_name("best.gif").read_bytes()
    )


def test_tensorboard_shows_the_curves_and_videos_of_a_sweep(runs):
    found = written(runs / "sweep/tensorboard")
    summary = json.loads((runs / "sweep/summary.json").read_text())
    for point in summary["points"]:
        for metric, quality in point["quality"].items():
            key = f"reward/{point['search']}", f"quality/{metric}", point["nfe"]
            assert found[key] == pytest.approx(quality["mean"], rel=1e-6)
    lines = {line for line, *_ in found}
    assert lines == {
        f"reward/{name}"
        for name in (
            "linear",
            "tree",
            "random choice",
            "best there was",
            "single sample 1",
            "linear 3",
            "tree small",
        )
    }
    videos = [value for value in found.values() if isinstance(value, bytes)]
    assert len(videos) == len(PROMPTS) * 3
    for video in videos:
        assert Image.open(io.BytesIO(video)).n_frames == UNITS * FRAMES


def test_without_its_writer_tensorboard_is_refused_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    argv = ["generate", "--prompt=any", "--tensorboard"]
    assert cli.run(generate.main, doc="", define=generate.define, argv=argv) == cli.EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert 'pip install "tts_jax[tensorboard]"' in error and error.count("\n") == 1
