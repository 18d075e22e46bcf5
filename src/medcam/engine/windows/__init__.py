"""Windows: a volume explained window by window; files and pictures are never touched here."""
