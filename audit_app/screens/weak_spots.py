"""Page: the images and classes on which a model holds least."""

from hardrank.audit_app.web.weak_spots_page import weak_spots_page

weak_spots_page()
