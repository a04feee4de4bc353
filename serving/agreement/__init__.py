"""How much two models agree about a query."""
