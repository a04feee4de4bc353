"""Page: the images and classes with the lowest scores."""

from hardrank.audit_app.web.weak_spots_page import weak_spots_page

weak_spots_page()
