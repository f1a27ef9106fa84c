"""Reports as one HTML file each, that needs no network: the page they share."""
