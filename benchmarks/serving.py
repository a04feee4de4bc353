"""What does serving cost on top of the network, alone and under load, and does it stay so?

    python benchmarks/serving.py                  # all sections, about 20 minutes
    python benchmarks/serving.py query clients    # some of them
    python benchmarks/serving.py --tiny           # a try, in a minute

ResNet-18 at 224 px, random weights, exported as the trainer does; 100 000 × 512 items; 300×200 JPEG. The server runs
as its command runs it; the bare network and PyTorch run in processes of their own, turn by turn with it. Sections run
alone too, and leave the others in benchmarks/results/serving.json as they were.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch

from benchmarks.command import environment, parse_options
from benchmarks.serving_clients import clients
from benchmarks.serving_options import Section, ServingOptions
from benchmarks.serving_query import query
from benchmarks.serving_scene import DIMENSION, Scene, prepare
from benchmarks.serving_soak import soak
from hardrank.models.files import write_json

SECTIONS: Final[dict[Section, Callable[[Scene, ServingOptions], dict[str, Any]]]] = {
    Section.QUERY: query,
    Section.CLIENTS: clients,
    Section.SOAK: soak,
}


def main() -> None:
    """Run the requested sections and write what they measured."""
    options = parse_options(ServingOptions, doc=__doc__, file=__file__)
    result = options.file("serving")
    with tempfile.TemporaryDirectory() as scratch:
        scene = prepare(options.folder or Path(scratch), options.size)
        machine = environment()
        torch.set_num_threads(1)  # this process only waits
        found = options.known("serving")
        for name in options.sections or SECTIONS:
            section = SECTIONS[name](scene, options)
            found[str(name)] = {
                "command": f"python benchmarks/serving.py {name}",
                "what": (SECTIONS[name].__doc__ or "").strip(),
                "gallery": [scene.size, DIMENSION],
                **section,
                **machine,
            }
            print(json.dumps(section, indent=2), flush=True)
            if result is not None:
                write_json(result, found)


if __name__ == "__main__":
    main()
