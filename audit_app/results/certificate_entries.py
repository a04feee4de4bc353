"""The part of report.json about certificates."""

from pydantic import Field

from hardrank.audit_app.results.strict import StrictModel
from hardrank.audit_app.results.transform_entries import IntervalEntry


class CertifiedPointEntry(StrictModel):
    """Certified Recall@1 at one radius, 0 to 1."""

    radius: float = Field(description="L2, for pixels in [0,1]; it holds for every smaller perturbation")
    vote: IntervalEntry = Field(description="of the class that most noisy copies find")
    embedding: IntervalEntry = Field(description="of the item nearest to the mean embedding of noisy copies")


class CertificateEntry(StrictModel):
    """Certified Recall@1 of a smoothed version of the model, with one σ. No figure of an attack."""

    sigma: float = Field(description="σ, standard deviation of the noise, for pixels in [0,1]")
    samples: int = Field(description="noisy copies of each image")
    alpha: float = Field(description="for each image, the probability that it is certified wrongly")
    n: int = Field(description="number of images; those alone in their class are left out")
    recall_at_1: IntervalEntry = Field(description="of the same images without noise, as the model is served")
    points: list[CertifiedPointEntry]
