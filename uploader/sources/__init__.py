"""Where package graphs come from; `base` says what a source is, `merge` makes one graph of several."""
