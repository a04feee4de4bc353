"""What the pages of the app share: state, resources, forms. Streamlit is imported here and in the pages alone."""
