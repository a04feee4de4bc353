"""What does serving cost on top of the network, alone and under load, and does it stay so?

    python benchmarks/serving.py query clients soak [--minutes 10]

ResNet-18 at 224 px, random weights, exported as the trainer does; 100 000 × 512 items; 300×200 JPEG. The server runs
as its command runs it; the bare network and PyTorch run in processes of their own, turn by turn with it. Sections run
alone too, and leave the others in benchmarks/results/serving.json as they were.
"""

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.serving_clients import clients
from benchmarks.serving_query import query
from benchmarks.serving_scene import DIMENSION, Scene, prepare
from benchmarks.serving_soak import soak
from hardrank.models.files import write_json
from hardrank.trainer.runtime.environment import hardware, versions

ROOT = Path(__file__).resolve().parents[1]

RESULT: Final = ROOT / "benchmarks/results/serving.json"
SECTIONS: Final[dict[str, Callable[[Scene, argparse.Namespace], dict[str, Any]]]] = {
    "query": query,
    "clients": clients,
    "soak": soak,
}


def main() -> None:
    """Run the sections that were asked, and write what they found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="which to run (default: all)")
    parser.add_argument("--size", type=int, default=100_000, help="items of the gallery (default 100 000)")
    parser.add_argument("--queries", type=int, default=200, help="query: turns (default 200)")
    parser.add_argument("--seconds", type=float, default=20, help="clients: seconds of each load (default 20)")
    parser.add_argument("--minutes", type=float, default=10, help="soak: minutes (default 10)")
    parser.add_argument("--folder", type=Path, help="where to keep what is served for another run (default: nowhere)")
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scene = prepare(options.folder or Path(scratch), options.size)
        machine = hardware(torch.device("cpu"), low_precision=False)
        torch.set_num_threads(1)  # this process only waits
        found = json.loads(options.result.read_text(encoding="utf-8")) if options.result.exists() else {}
        for name in options.sections or SECTIONS:
            section = SECTIONS[name](scene, options)
            found[name] = {
                "command": f"python benchmarks/serving.py {name}",
                "what": (SECTIONS[name].__doc__ or "").strip(),
                "gallery": [scene.size, DIMENSION],
                **section,
                "hardware": machine,
                "versions": versions(),
            }
            print(json.dumps(section, indent=2), flush=True)
            write_json(options.result, found)


if __name__ == "__main__":
    main()
