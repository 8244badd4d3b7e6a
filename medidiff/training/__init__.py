"""Training of priors: a recipe goes in, a generator of progress comes out."""
