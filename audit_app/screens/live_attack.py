"""Page: attack the models live and see the rankings move."""

from hardrank.audit_app.web.live_page import live_page

live_page()
