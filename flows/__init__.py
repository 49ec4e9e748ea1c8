"""The runs: the spec, the pipeline, the watch for new model revisions, the command line."""
