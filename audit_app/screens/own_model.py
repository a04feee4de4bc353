"""Page: attack your own model."""

from hardrank.audit_app.web.screen import show_screen

show_screen("Bring your own model", "own_model_page")
