"""The web page: `zs2kit web`. It calls the library as any script would."""
