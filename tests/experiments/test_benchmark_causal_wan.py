"""The benchmark of causal Wan's siblings, at a small size on the compiler for TPU."""

import json

import pytest

from experiments import benchmark_causal_wan as benchmark
from experiments import cli

SMALL = {"frames": 9, "height": 32, "width": 32, "chunk": 1}


def run(*arguments):
    return cli.run(
        benchmark.main,
        doc="",
        define=benchmark.define,
        config="causal_wan_1_3b.py",
        argv=["benchmark", *arguments],
    )


def test_it_tells_what_siblings_share(tmp_path, monkeypatch, capsys):
    compiled = []

    class Program:
        """Stands for a compiled one, which takes long."""

        def memory_analysis(self):
            sizes = "argument output temp generated_code alias".split()
            return type("Stats", (), {f"{name}_size_in_bytes": 2**30 for name in sizes})

        def as_text(self):
            return "ENTRY %main (x: f32[2]) -> f32[2] {\n}\n"

    def compile_for(lowered):
        compiled.append(lowered)
        if len(compiled) == 2:
            raise benchmark.executable.DoesNotFit("RESOURCE_EXHAUSTED: too much", 5e10)
        return Program()

    monkeypatch.setattr(benchmark.executable, "compile_for", compile_for)
    path = tmp_path / "figures.json"
    fields = [f"--config.generator.{name}={value}" for name, value in SMALL.items()]
    assert run("--siblings=3", "--topology=v5e:2x2", *fields, f"--output={path}") == 0
    found = json.loads(path.read_text())
    memory, tree = found["memory"], found["tree"]
    assert memory["parameters"] == pytest.approx(2 * 1.42e9, rel=0.01)
    assert memory["past"] == 2 * memory["chunk"] == 2 * 4 * 30 * 2 * 1536 * 2
    assert memory["shared"]["peak"] == 3 * 2**30 and memory["unshared"]["peak"] == 5e10
    assert tree["together"]["nfe"] == 3 * 3 * 4 + 2 and tree["alone"]["nfe"] == 3 * 3 * 4 + 6
    assert tree["together"]["flops"] < tree["alone"]["flops"]
    assert tree["together"]["bytes"] < tree["alone"]["bytes"]
    assert "3 siblings at the last chunk" in capsys.readouterr().out


def test_other_generators_are_refused(capsys):
    assert run("--config.generator.segment=step") == 2
    assert "is no causal_wan whose segments are chunks" in capsys.readouterr().err
