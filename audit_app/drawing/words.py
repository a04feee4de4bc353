"""Numbers as a reader likes them."""

import math


def whole(number: float) -> str:
    """Give a whole number with thin spaces between thousands."""
    return f"{number:,.0f}".replace(",", "\u202f")


def rank(mean: float) -> str:
    """Give a rank, or a mean of ranks, which need not be whole."""
    return whole(mean) if float(mean).is_integer() or mean >= 100 else f"{mean:.1f}"


def percent(share: float) -> str:
    """Give a share in [0,1] in %."""
    return f"{100 * share:.0f}\u202f%"


def number(value: float) -> str:
    """Give a figure with three digits; a dash where there is none."""
    return "–" if not math.isfinite(value) else f"{value:.3g}"


def plural(count: int, one: str, many: str) -> str:
    """Give a count with its noun."""
    return f"{whole(count)} {one if count == 1 else many}"
