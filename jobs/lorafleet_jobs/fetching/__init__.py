"""Photographs that lie in a zip file or at an address become a folder under the home, once for each content."""
