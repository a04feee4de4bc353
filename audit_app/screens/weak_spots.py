"""Page: the images and classes with the lowest scores."""

from hardrank.audit_app.web.screen import show_screen

show_screen("Weakest images and classes", "weak_spots_page")
