"""A searchable index: search on immutable snapshots while items are added and deleted."""
