"""The benchmark of checklists counts and times what it says, at a tiny size."""

from experiments.benchmark_verifiers import flops, seconds
from tts_jax.language.decoder import DecoderConfig
from tts_jax.verifiers.visionreward import VisionRewardConfig
from tts_jax.vision.eva import EVAConfig

TINY = VisionRewardConfig(
    vision=EVAConfig(size=28, patch=14, width=16, heads=2, layers=1, mlp=16, outputs=16, hidden=16),
    decoder=DecoderConfig(
        vocabulary=64, width=16, heads=2, kv_heads=1, head_size=8, layers=1, mlp=16
    ),
    first=0,
)


def test_a_checklist_costs_less_than_its_questions():
    whole, single = flops(TINY, 5, 2, 1)
    assert single < whole < 5 * single


def test_shared_questions_are_answered_as_by_themselves():
    shared, apart, difference = seconds(TINY, 3, 2, 2, 1)
    assert shared > 0 and apart > 0 and difference < 1e-5
