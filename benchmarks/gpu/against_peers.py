"""All GPU measurements in one go, as one JSON file a size: PPO against TRL, sampling against `generate`, utilisation.

    python benchmarks/gpu/against_peers.py --out gpu.json --peer-python PATH --vllm-python PATH   # half an hour
    python benchmarks/gpu/against_peers.py --tiny                                                   # minutes on a CPU

The peers' interpreters are optional; see `benchmarks/ppo.py` and `benchmarks/rollout.py`, which this calls.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SIZES = {"30M": (512, 8), "110M": (768, 12), "150M": (896, 12)}  # hidden, layers


def call(script: Path, *options: object) -> Any:
    done = subprocess.run([sys.executable, str(script), *map(str, options)], capture_output=True, text=True)
    if done.returncode:
        return {"failed": done.stderr.strip().splitlines()[-3:]}
    return json.loads(done.stdout[done.stdout.index("{") :])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peer-python")
    parser.add_argument("--vllm-python")
    parser.add_argument("--tiny", action="store_true")
    a = parser.parse_args()
    trl = ["--peer-python", a.peer_python] if a.peer_python else []
    vllm = ["--vllm-python", a.vllm_python] if a.vllm_python else []
    found: dict[str, Any] = {}
    for name, (hidden, layers) in {"tiny": (32, 1)}.items() if a.tiny else SIZES.items():
        size = ["--hidden", hidden, "--layers", layers, "--lengths", "full", "--repeats", 1 if a.tiny else 5]
        batch = ["--rollouts", 16, "--new-tokens", 8] if a.tiny else ["--rollouts", 256, "--new-tokens", 384]
        many = ["--problems", 4, "--n", 2, "--new-tokens", 8] if a.tiny else ["--new-tokens", 384, "--batch", 2048]
        peers = ["--peer-batches", 8] if a.tiny else ["--peer-batches", 256, 1024, 4096]
        bf16 = [] if a.tiny else ["--bf16"]
        found[name] = {
            "ppo": call(HERE.parent / "ppo.py", *size, *batch, *bf16, *trl),
            "rollout": call(HERE.parent / "rollout.py", *size, *many, *peers, *vllm),
            "updates": call(HERE / "updates.py", *(["--tiny"] if a.tiny else ["--hidden", hidden, "--layers", layers])),
        }
        print(json.dumps({name: found[name]}, indent=1), flush=True)
    if a.out:
        a.out.write_text(json.dumps(found, indent=1) + "\n")
    if any("failed" in row for rows in found.values() for row in rows.values()):
        raise SystemExit("at least one measurement failed; see above")


if __name__ == "__main__":
    main()
