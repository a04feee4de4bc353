"""Page: attack models live and watch the rankings change."""

from hardrank.audit_app.web.live_page import live_page

live_page()
