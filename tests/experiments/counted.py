"""`experiments.generate` in a process of its own that tells last what it compiled.

python -m tests.experiments.counted --prompt="..." ...
"""

import json
import sys

from experiments import cli, generate
from experiments.profile import watch_compilation

if __name__ == "__main__":
    with watch_compilation() as found:
        argv = ["generate", *sys.argv[1:]]
        code = cli.run(generate.main, doc="", define=generate.define, argv=argv)
    print(json.dumps({"programs": len(found.compiled), "cached": len(found.hits)}))
    sys.exit(code)
