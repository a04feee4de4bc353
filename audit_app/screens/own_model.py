"""Page: attack a model of one's own."""

from hardrank.audit_app.web.own_model_page import own_model_page

own_model_page()
