"""The parts of report.json about transforms and edits of images."""

from pydantic import Field

from hardrank.audit_app.results.strict import StrictModel


class IntervalEntry(StrictModel):
    """A mean over images."""

    value: float
    low: float = Field(description="lower end of the 95 % bootstrap interval")
    high: float = Field(description="upper end")


class EditPointEntry(StrictModel):
    """Retrieval after an edit of one strength."""

    strength: float
    recall_at_1: IntervalEntry | None = Field(description="0 to 1; null if no image shares its class with another one")
    overlap: IntervalEntry = Field(description="share of the first items that stay among them, 0 to 1")
    moved: IntervalEntry = Field(description="distance of the embedding from that of the original, 0 to 2")


class EditEntry(StrictModel):
    """Retrieval against the strength of an edit."""

    title: str
    unit: str = Field(description="what the strength counts")
    points: list[EditPointEntry] = Field(description="from the mildest")
    withstood: float | None = Field(description="the strongest edit up to which all are withstood; null if none is")


class EditsEntry(StrictModel):
    """Rankings when people edit the images, which are no attacks."""

    n: int = Field(description="number of edited images")
    with_match: int = Field(description="how many of them share their class with another image, for Recall@1")
    k: int = Field(description="how many of the first items `overlap` compares: 10, or all others of a smaller gallery")
    recall_at_1: IntervalEntry | None = Field(description="of the originals, 0 to 1")
    min_overlap: float = Field(description="an edit is withstood with at least this mean overlap")
    max_recall_loss: float = Field(description="and if Recall@1 falls by at most this much")
    edits: dict[str, EditEntry]


class SurvivalFigureEntry(StrictModel):
    """A result of the scorecard before and after transforms of the attacked images."""

    before: float = Field(description="value of the unchanged images")
    after: dict[str, IntervalEntry] = Field(description="by transform; `png`: the attack as an 8-bit file")
    survived: dict[str, float | None] = Field(
        description="by transform, % of the change of the PNG that is left; null if the PNG changed nothing"
    )


class SurvivalEntry(StrictModel):
    """How much of the attacks survives what files go through."""

    n: int = Field(description="number of attacked images, of those of the scorecard")
    titles: dict[str, str] = Field(description="the transforms by key")
    figures: dict[str, SurvivalFigureEntry]
