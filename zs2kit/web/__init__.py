"""The web page: `zs2kit web`. It calls the library as a script would; all that is here is the page."""
