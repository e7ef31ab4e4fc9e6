"""What the features' numbers cost in accuracy, in words: the sketch against exact similarities, the format on disk against float32."""

from curate.report.results import FeatureRow


def fidelity_lines(features: list[FeatureRow]) -> list[str]:
    """A sentence for each feature whose numbers are not exact."""
    return [line for feature in features for line in (_sketch(feature), _storage(feature)) if line]


def fidelity_cell(feature: FeatureRow) -> str:
    """`Spearman 0.97`, `exact`, or a dash where nothing was measured."""
    if feature.output.endswith("exact"):
        return "exact"
    return f"Spearman {feature.fidelity['spearman']:.3f}" if feature.fidelity else "-"


def _sketch(feature: FeatureRow) -> str:
    found = feature.fidelity
    if not found:
        return ""
    return (
        f"Feature {feature.name}: on a pilot of {found['rows']:.0f} rows and {found['targets']:.0f} target rows its {feature.width} sketched numbers "
        f"rank as the exact similarities do with Spearman {found['spearman']:.3f}; {found['overlap']:.0%} of the top 5% agree."
    )


def _storage(feature: FeatureRow) -> str:
    if not feature.storage_error:
        return ""
    return (
        f"Feature {feature.name}: kept as {feature.stored}, which moves a row by {feature.storage_error['row_error']:.2%} of its length and the cosine of "
        f"two rows by {feature.storage_error['cosine_error']:.1e} (root mean squares)."
    )
