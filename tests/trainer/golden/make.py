"""Make the golden files of this folder from the full ones of the reference implementation.

    python tests/trainer/golden/make.py FOLDER

FOLDER holds `golden/` and `reference/`; README.md describes what is kept. Adversarial images are stored as integer
perturbations: in units of 1e-7 for the ranking attacks (exact to 5e-8), and of 1/255 for hardness manipulation (exact).
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
QUERIES, TRIPLETS = 2, 6


def integers(values: np.ndarray, dtype: type[np.signedinteger[Any]]) -> np.ndarray:
    """Round to integers of `dtype`."""
    rounded: np.ndarray = np.rint(values).astype(dtype)
    return rounded


def main(source: Path) -> None:
    """Write the two archives, their facts, and the tables of the paper."""
    attacks = dict(np.load(source / "golden" / "ranking_attacks.npz"))
    manipulation = dict(np.load(source / "golden" / "hardness_manipulation.npz"))
    kept = np.union1d(attacks["queries"], manipulation["batch"])
    images = attacks.pop("images")
    benign = images[attacks["queries"]].astype(np.float64) / 255
    small: dict[str, Any] = {"image_rows": kept, "images": images[kept]}
    for name, array in attacks.items():
        if ".adversarial" in name:
            case = name.partition(".")[0]
            few = np.flatnonzero(attacks[f"{case}.comparable"])[:QUERIES]
            small[f"{case}.compared"] = few
            small[name.replace("adversarial", "perturbation")] = integers((array[few] - benign[few]) * 1e7, np.int32)
        else:
            small[name] = array
    np.savez_compressed(HERE / "ranking_attacks.npz", **small)
    batch = images[manipulation["batch"]].astype(np.float64) / 255
    small = {"compared": np.arange(TRIPLETS)}
    for name, array in manipulation.items():
        if ".adversarial" in name:
            case = "softhard_lga_0.05" if name.startswith("act") else name.removesuffix(".adversarial")
            parts = ("positive", "negative") if name.startswith("act") else ("anchor", "positive", "negative")
            rows = np.concatenate([manipulation[f"{case}.{part}"] for part in parts])
            change = (
                (array - batch[rows]).reshape(len(parts), -1, *array.shape[1:])[:, :TRIPLETS].transpose(1, 0, 2, 3, 4)
            )
            small[name.replace("adversarial", "perturbation")] = integers(change * 255, np.int8)
        else:
            small[name] = array
    np.savez_compressed(HERE / "hardness_manipulation.npz", **small)
    for name in ("ranking_attacks.json", "hardness_manipulation.json"):
        facts = json.loads((source / "golden" / name).read_text(encoding="utf-8"))
        (HERE / name).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    shutil.copyfile(source / "reference" / "paper_tables.csv", HERE / "paper_tables.csv")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
