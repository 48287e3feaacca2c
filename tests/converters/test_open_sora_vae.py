"""Open-Sora's autoencoder is converted from either form of its config, and verified."""

import json
import shutil

from safetensors.numpy import load_file, save_file

from converters import convert, verify
from converters.components import interpret
from converters.registry import COMPONENTS
from tts_jax.generators.open_sora.vae import OpenSoraVAEConfig

NAME = "open_sora_vae"


def test_recorded_calls_pass_with_converted_weights(golden, tmp_path, run, capsys):
    folder = tmp_path / NAME
    shutil.copytree(golden(NAME), folder)
    assert run(convert, model=NAME, src=folder, dst=tmp_path / "ours") == 0
    tensors = load_file(folder / "io.safetensors")
    call = next(name for name in tensors if name.endswith(".x")).removesuffix("x")
    whole = ("x", "enc.z", "enc.spatial_noise", "enc.temporal_noise.", "dec.video")
    kept = {n: t for n, t in tensors.items() if n.startswith(tuple(call + end for end in whole))}
    kept.pop(f"{call}enc.z_mode")
    (folder / "io.safetensors").unlink()
    save_file(kept, folder / "io.safetensors")
    (folder / "weights.safetensors").unlink()
    assert run(verify, golden=folder, checkpoint=tmp_path / "ours") == 0
    printed = capsys.readouterr().out
    assert f"{call}enc.z" in printed and f"{call}dec.video" in printed


def test_the_published_config_is_understood_whole():
    published = {
        "model_type": "VideoAutoencoderPipeline",
        "architectures": ["VideoAutoencoderPipeline"],
        "cal_loss": False,
        "freeze_vae_2d": False,
        "from_pretrained": None,
        "micro_frame_size": 17,
        "scale": [3.85, 2.32, 2.33, 3.06],
        "shift": [-0.1, 0.34, 0.27, 0.98],
        "vae_2d": {
            "type": "VideoAutoencoderKL",
            "from_pretrained": "PixArt-alpha/pixart_sigma_sdxlvae_T5_diffusers",
            "subfolder": "vae",
            "micro_batch_size": 4,
            "local_files_only": False,
        },
        "vae_temporal": {"type": "VAE_Temporal_SD", "from_pretrained": None},
    }
    config, _, _, faults = interpret(COMPONENTS[NAME], published)
    assert faults == [] and config == OpenSoraVAEConfig.published()
    *_, faults = interpret(COMPONENTS[NAME], published | {"vae_2d": {"type": "AutoencoderKL"}})
    assert "vae_2d='AutoencoderKL'" in faults[0]
    *_, faults = interpret(COMPONENTS[NAME], published | {"quantised": True})
    assert faults == ["field 'quantised' is unknown"]


def test_another_scale_of_small_frames_is_refused(golden):
    fields = json.loads((golden(NAME) / "config.json").read_text())
    *_, faults = interpret(COMPONENTS[NAME], fields | {"spatial_scaling": 0.13025})
    assert any("0.13025" in fault for fault in faults)


def test_unknown_fields_of_either_half_are_found(golden):
    fields = json.loads((golden(NAME) / "config.json").read_text())
    *_, faults = interpret(COMPONENTS[NAME], fields)
    assert faults == []
    halves = {half: fields[half] | {"quantised": True} for half in ("spatial_vae", "temporal_vae")}
    *_, faults = interpret(COMPONENTS[NAME], fields | halves)
    assert faults == [f"field '{half}.quantised' is unknown" for half in sorted(halves)]
