"""What every format needs of the file system: telling formats apart, limits, and files that are whole or absent."""
