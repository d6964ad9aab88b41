"""One page, one file, each with a function `show`."""
