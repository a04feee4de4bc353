"""Entries of a leaderboard: an audited model as one JSON file, and the page that compares them."""
