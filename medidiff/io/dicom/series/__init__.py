"""From the headers of a folder to scans: one regular stack of slices each, or a refusal."""
