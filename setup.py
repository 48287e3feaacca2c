"""Package tts_jax, with the folders of programs beside it."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGES = ("tts_jax", "configs", "converters", "experiments")

REQUIRED = [
    "jax>=0.10.2",  # jax.shard_map, jax.set_mesh; CPU build, see extras `cuda` and `tpu`
    "flax>=0.12.8",  # NNX modules and nnx.to_pure_dict
    "optax>=0.2.8",  # training programs; optax.contrib.muon with dimension numbers
    "orbax-checkpoint>=0.12.8",  # the v1 API
    "numpy>=2.0",  # host arrays; the dtypes of ml_dtypes
    "scipy>=1.14",  # ndimage, in the embedded world's grader
    "safetensors>=0.5",  # weights at rest, without pickle
    "tokenizers>=0.21",  # tokenizer.json; the part of transformers we need, imported in 0.1 s
    "ml-collections>=1.1",  # typed configs with overrides on the command line
    "absl-py>=2.1",  # flags of the programs
    "av>=14.0",  # H.264 in process: wheels carry the encoder, nothing to install beside them
    "pillow>=11.0",  # gif, png, contact sheets
    "matplotlib>=3.9",  # curves; its fonts letter the contact sheets
    "pyarrow>=20.0",  # tables of sweeps as parquet, which every notebook reads
    "rich>=13.0",  # progress bars with ETA, tables
]

# Exact: the reference outputs were made with it. Reads .bin and .pt checkpoints.
TORCH = "torch==2.13.0"
TENSORBOARD = "tensorboardX>=2.6"  # writes its files with no TensorFlow

# The TPU compiler, of the version that jax 0.10.2 is made for; it needs no TPU. Tests of plans need
# it as the program does: what is read from its text cannot be tested without it. Beside a CPU it
# costs jax a second at the start, unless JAX_PLATFORMS=cpu is set.
COMPILER = "libtpu==0.0.42.*"

# Arrays of integers with scales, and their rounding; names its own releases alpha, so not a newer
# series unseen.
INT8 = "qwix>=0.1.8,<0.2"

setup(
    name="tts_jax",
    version="0.1.0",
    description="Test-time scaling for text-to-video: search over noise, in JAX",
    long_description=(Path(__file__).parent / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",  # what jax 0.10 supports
    packages=find_packages(include=[f"{p}{s}" for p in PACKAGES for s in ("", ".*")]),
    package_data={"tts_jax": ["assets/*", "assets/*/*", "report/templates/*"]},
    install_requires=REQUIRED,
    extras_require={
        "test": [
            "diffusers>=0.42",  # the original of CogVideoX
            "pytest>=8.3",
            "pytest-xdist>=3.7",  # two processes, see pyproject.toml
            "hypothesis>=6.100",
            "ruff>=0.9",
            INT8,
            "selenium>=4.30",  # drives Chromium through the pages
            TENSORBOARD,
            "sentencepiece>=0.2",  # the original of T5's tokenizer
            "transformers>=5.0",  # the originals of text encoders and tokenizers
            TORCH,
            COMPILER,
        ],
        "converters": [TORCH],
        "tensorboard": [TENSORBOARD, "tensorboard>=2.18"],  # the latter to look with
        "int8": [INT8],
        "plan": [COMPILER],
        "cuda": ["jax[cuda13]>=0.10.2"],
        "tpu": ["jax[tpu]>=0.10.2"],
    },
)
