"""The browser views of `results.db`: `app.py` is the navigation, each page is a file in `views/`."""
