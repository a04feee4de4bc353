"""The galleries of audits: their images, their embeddings, and their vectors as a server uses them."""
