"""card.json: the record of a trained model (schema `hardrank.card/1`).

`python -m hardrank.models.card` prints the JSON Schema.
"""

import json
from datetime import datetime
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from hardrank.models.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Fit, Interpolation

SCHEMA: Final = "hardrank.card/1"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    """A file of the bundle."""

    sha256: str = Field(description="SHA-256 of the file, hexadecimal")
    bytes: int = Field(description="size of the file")


class ArchitectureEntry(_Strict):
    """The arguments that build the network."""

    backbone: str = Field(description="`small-resnet`, `c2f2`, a torchvision name or `timm/NAME`")
    dimension: int = Field(description="D, the dimension of an embedding")
    image_size: int = Field(description="H = W of the input, pixels")
    mean: tuple[float, float, float] = Field(
        default=IMAGENET_MEAN, description="mean of the channels, which the network subtracts from pixels in [0,1]"
    )
    std: tuple[float, float, float] = Field(
        default=IMAGENET_STD, description="standard deviation of the channels, by which the network divides"
    )


class PreprocessingEntry(_Strict):
    """From an image file to the network's input."""

    resize: int = Field(description="side of the square that an image becomes, pixels")
    crop: int = Field(description="side of the center crop, pixels; equals architecture.image_size")
    fit: Fit = Field(
        default=Fit.SQUARE,
        description="`square`: both sides are resized; `shortest`: the shorter side is, and the center is cut out",
    )
    interpolation: Interpolation = Field(
        default=Interpolation.BILINEAR, description="`bilinear` or `bicubic`, antialiased"
    )


class InitialWeightsEntry(_Strict):
    """Pretrained weights that training started from."""

    origin: str = Field(description="`file`, `cache` or `hub` of the library, or `package`")
    name: str = Field(description="name of the file, or of the package with its version")
    sha256: str = Field(description="SHA-256 of the file, hexadecimal")
    repository: str | None = Field(
        default=None, description="`USER/NAME` on the Hugging Face Hub, if the file came from there"
    )


class Card(_Strict):
    """The content of card.json."""

    schema_version: str = Field(default=SCHEMA, description="`hardrank.card/1`")
    name: str = Field(description="name of the bundle")
    run_id: str = Field(description="id of the training run; another run needs --overwrite to replace the bundle")
    created: datetime = Field(description="time of the export, UTC")
    command: str = Field(description="the command line")
    defense: str = Field(description="the defense, in the paper's notation; several stages as `first, then second`")
    recipe: str = Field(description="name or file of the recipe")
    config: dict[str, Any] = Field(description="the full configuration; `hardrank.trainer.config` documents its fields")
    seeds: dict[str, int] = Field(description="random seeds by purpose")
    architecture: ArchitectureEntry
    preprocessing: PreprocessingEntry
    initial_weights: InitialWeightsEntry | None = Field(
        default=None, description="pretrained weights that training started from; null: another start"
    )
    data: dict[str, Any] = Field(description="name, counts, SHA-256 and problems of the data set")
    metrics: dict[str, float] = Field(
        description="on benign images of unseen classes: recall_at_1, recall_at_2, mean_ap, map_at_r, nmi (0 to 1), "
        "mean_cosine of random pairs (near 1: collapsed), number of queries"
    )
    robustness: dict[str, Any] | None = Field(
        description="scorecard: the ten results of ERS, ERS itself, worst_case_recall, n, intervals; `strong`: the "
        "strong ERS, its cost and how it was found; null: not measured"
    )
    parity: dict[str, float] = Field(description="agreement of PyTorch and ONNX Runtime, as measured at export")
    training: dict[str, Any] = Field(default_factory=dict, description="iterations and last line of the training log")
    versions: dict[str, str] = Field(description="versions of Python and the libraries")
    hardware: dict[str, str] = Field(description="processor, cores, memory, accelerator, precision")
    durations: dict[str, float] = Field(description="seconds of each part of the run")
    files: dict[str, FileEntry] = Field(description="the files of the bundle, except card.json and README.md")


if __name__ == "__main__":
    print(json.dumps(Card.model_json_schema(), indent=2))
