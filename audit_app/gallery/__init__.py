"""The images of an audit, and the gallery as each model embeds it."""
