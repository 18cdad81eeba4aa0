"""One thin command a stage: typed settings in, a library call, atomic outputs."""
