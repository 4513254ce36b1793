"""Reports: what there is to say of a run, or of several beside one another, as one HTML file."""
