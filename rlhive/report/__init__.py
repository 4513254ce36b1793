"""Reports on one run, or on several side by side, as one HTML file."""
