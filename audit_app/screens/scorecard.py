"""Page: the scorecard of each model."""

from hardrank.audit_app.web.scorecard_page import scorecard_page

scorecard_page()
