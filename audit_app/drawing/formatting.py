"""Format numbers for people."""

import math


def format_count(number: float) -> str:
    """Format a whole number with thin spaces between thousands."""
    return f"{number:,.0f}".replace(",", "\u202f")


def format_rank(mean: float) -> str:
    """Format a rank, or a mean of ranks, which may have a fraction."""
    return format_count(mean) if float(mean).is_integer() or mean >= 100 else f"{mean:.1f}"


def format_percent(share: float) -> str:
    """Format a share in [0,1] as a percentage."""
    return f"{100 * share:.0f}\u202f%"


def format_number(value: float) -> str:
    """Format a number with three significant digits; a dash if it is not finite."""
    return "–" if not math.isfinite(value) else f"{value:.3g}"


def format_figure(value: float, unit: str) -> str:
    """Format a result of an audit, in % or as a cosine, distance or share, with the digits that it deserves."""
    return "–" if not math.isfinite(value) else f"{value:.1f}" if unit == "%" else f"{value:.3f}"


def format_plural(count: int, one: str, many: str) -> str:
    """Format a count with its noun."""
    return f"{format_count(count)} {one if count == 1 else many}"


def format_score(value: float, *, upper_bound: bool, digits: int = 1) -> str:
    """Format a score from 0 to 100; an upper bound as `≤ 54`, without digits that it does not have."""
    return f"≤\u202f{value:.0f}" if upper_bound else f"{value:.{digits}f}"
