"""Page: attack your own model."""

from hardrank.audit_app.web.own_model_page import own_model_page

own_model_page()
