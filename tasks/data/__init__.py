"""Data sets into samples: ingest, pairing, caption search, CLIP vectors of images. Imports `tasks.core`."""
