"""Plain implementations as one reads them in the papers: tests compare with them, benchmarks measure against them."""
