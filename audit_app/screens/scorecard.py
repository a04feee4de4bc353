"""Page: the scorecard of each model."""

from hardrank.audit_app.web.screen import show_screen

show_screen("Robustness of the models", "scorecard_page")
