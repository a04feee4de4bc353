"""The audit app: attack models live, score their robustness, find their weakest images.

    streamlit run audit_app/app.py [-- --zoo DIR --gallery PLACE --audits DIR --attacks N]

It listens on the loopback only. The settings of Streamlit are in .streamlit/config.toml.
"""

import sys
from pathlib import Path

import streamlit as st

from hardrank.audit_app.web.messages import errors_shown
from hardrank.audit_app.web.server_check import check_server
from hardrank.audit_app.web.settings import settings

# Attacks run in threads. With the default of 5 ms, each of their many short operations would wait for a page redraw.
sys.setswitchinterval(0.0005)

# Not in a folder `pages`: Streamlit would serve its files directly, without the check of the server below.
PAGES = (
    st.Page("screens/live_attack.py", title="Live attack", icon=":material/bolt:", default=True),
    st.Page("screens/scorecard.py", title="Scorecard", icon=":material/radar:"),
    st.Page("screens/weak_spots.py", title="Weak spots", icon=":material/troubleshoot:"),
    st.Page("screens/own_model.py", title="Bring your own model", icon=":material/upload:"),
)

# A file: for a named icon, the browser would fetch an image from another host.
ICON = Path(__file__).resolve().parent / "web" / "icon.png"
st.set_page_config(page_title="hardrank · audit", page_icon=str(ICON), layout="wide")
st.html(f"<style>{(ICON.parent / 'app.css').read_text(encoding='utf-8')}</style>")
with errors_shown():
    check_server(allow_remote=settings().open)
    st.navigation(PAGES, position="top").run()
