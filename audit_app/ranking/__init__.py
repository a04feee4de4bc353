"""How rankings move under attack."""
