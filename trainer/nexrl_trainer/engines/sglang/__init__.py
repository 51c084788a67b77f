"""SGLang as a process of the run: its own flags, checked before the start, and a child that ends when we do."""
