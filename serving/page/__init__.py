"""The search page: its layout and events, the requests it accepts, and its appearance."""
