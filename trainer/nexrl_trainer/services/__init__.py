"""The processes a run consists of: what each is started with, and how they are started, watched and stopped."""
