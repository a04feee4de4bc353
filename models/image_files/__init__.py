"""The structure of image files: what decoding needs of them, and what it will cost; one format a file."""
