"""The library: what a study is made of."""
