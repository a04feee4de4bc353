"""A searchable index: searches use immutable snapshots while items are added and deleted."""
