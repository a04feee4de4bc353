"""A Streamlit app that shows hostile texts, for the test of `escape_markdown` in a browser."""

import streamlit as st

from hardrank.audit_app.web.markdown import escape_markdown

HOSTILE = (
    "![x](http://host.invalid/x.png)",
    "[a link](http://host.invalid/)",
    "http://host.invalid/x https://host.invalid www.host.invalid someone@host.invalid xmpp:a@host.invalid/x",
    "<img src=http://host.invalid/x.png onerror=alert(1)> <b>bold</b> &amp; &#58;cat&#58;",
    "$x^2$ $$\\frac{1}{2}$$",
    ":cat: :red[red] :blue-background[b] :material/bolt: :streamlit: :+1: :rainbow[r] :small[s] :shortcut[a]",
    "**bold** __bold__ *it* _it_ ~~gone~~ ~sub~ `code` ^[note] [^1] ==m==",
    "# heading",
    "- item",
    "1. item",
    "1) item",
    "> quote",
    "    code",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "a -> b <- c -- d <-> e >= f <= g ~= h",
    "class\n\n***\n\nnext",
    "::directive[x]{y} :::note",
    "back\\slash \\* \\",
    "C++/C# (50 %) — façade 猫 🐈 $5",
    "----",
    "[ ] task [x] task",
)

if __name__ == "__main__":
    for i, text in enumerate(HOSTILE):
        safe = escape_markdown(text)
        with st.container(key=f"text-{i}"):
            st.button(safe, key=f"button-{i}", help=safe)
            st.caption(safe)
            st.markdown(f"- **{safe}**, {safe}")
            st.error(safe)
            st.text_input(safe, key=f"input-{i}", help=safe)
            st.progress(0.5, safe)
