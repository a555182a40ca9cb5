"""What images are made of, built in an empty folder and run from there alone."""
