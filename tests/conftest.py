"""What every test shares: the golden folder, eight virtual CPU devices, float32 matrix products."""

import gc
import os
from pathlib import Path

import jaxlib

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")
# Compiling takes most of the time of a test, and the programs it makes are run once or twice.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if jaxlib.__version__.startswith("0.10."):  # the flag of one compiler; another may not know it
    flag = "--xla_cpu_use_fusion_emitters=false"
    os.environ["XLA_FLAGS"] = f"{flag} {os.environ.get('XLA_FLAGS', '')}"
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR",
    str(Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "tts_jax" / "jax"),
)

import jax
import pytest

jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
gc.set_threshold(50_000, 20, 50)  # traced programs are millions of objects that live on


def pytest_addoption(parser):
    parser.addoption(
        "--golden-root",
        type=Path,
        default=Path(__file__).parent / "golden",
        metavar="DIR",
        help="folder that holds the golden folders (default: tests/golden)",
    )


@pytest.fixture(scope="session")
def golden(request):
    """`golden(name)`: the path of a golden folder; a missing one fails the test."""
    root = request.config.getoption("--golden-root")

    def find(name: str) -> Path:
        folder = root / name
        if not folder.is_dir():
            pytest.fail(f"golden folder {name!r} is missing under {root} (see --golden-root)")
        return folder

    return find
