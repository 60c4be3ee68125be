"""Fill the folder of raw text: sources, downloads, archives."""
