"""Page: attack models live and watch the rankings change."""

from hardrank.audit_app.web.screen import live_controls, show_screen

show_screen("Attack a ranking", "live_page", controls=live_controls)
