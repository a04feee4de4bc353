"""The audit app: attack models live, score them, find where they are weak.

    streamlit run audit_app/app.py [-- --zoo DIR --gallery PLACE --audits DIR --attacks N]

It listens on the loopback alone; its settings lie beside it, in .streamlit/config.toml.
"""

import sys
from pathlib import Path

# Streamlit puts this folder first on the path, where its modules would hide others of the same names.
import streamlit as st

from hardrank.audit_app.web.guard import check_server
from hardrank.audit_app.web.messages import told
from hardrank.audit_app.web.resources import settings

# Attacks run in threads beside the pages: each of their many short operations would wait 5 ms for a page being drawn.
sys.setswitchinterval(0.0005)

# Not in a folder `pages`: Streamlit would run what lies there by itself, without the check of the server below.
PAGES = (
    st.Page("screens/live_attack.py", title="Live attack", icon=":material/bolt:", default=True),
    st.Page("screens/scorecard.py", title="Scorecard", icon=":material/radar:"),
    st.Page("screens/weak_spots.py", title="Weak spots", icon=":material/troubleshoot:"),
    st.Page("screens/own_model.py", title="Bring your own model", icon=":material/upload:"),
)

# The icon is a file: Streamlit would have the browser fetch a named one from elsewhere.
ICON = Path(__file__).resolve().parent / "web" / "icon.png"
st.set_page_config(page_title="hardrank · audit", page_icon=str(ICON), layout="wide")
st.html(f"<style>{(ICON.parent / 'app.css').read_text(encoding='utf-8')}</style>")
with told():
    check_server(others=settings().open)
    st.navigation(PAGES, position="top").run()
