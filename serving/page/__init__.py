"""Parts of the search page: what it shows, how it looks, what it lets through."""
