"""The report of an audit: JSON, CSV and one self-contained page."""
