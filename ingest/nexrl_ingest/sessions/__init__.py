"""Sessions as they were captured: shown, listed, judged, told live, and forgotten in the end."""
