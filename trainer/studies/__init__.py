"""Studies: a list of recipes on one data set with the same seeds, compared in a table and plots."""
