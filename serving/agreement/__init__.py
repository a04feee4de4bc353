"""How much two models agree about a query, compared with what is usual for the gallery."""
