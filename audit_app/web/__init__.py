"""The Streamlit pages of the app. Only this folder, the screens and app.py import Streamlit."""
