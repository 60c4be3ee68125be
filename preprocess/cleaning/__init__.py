"""Clean raw text: rules, scripts, languages, duplicates."""
