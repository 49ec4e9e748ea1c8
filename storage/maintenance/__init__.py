"""Store maintenance: inventory, checksum verification, garbage collection, diff of runs. Imports all of storage."""
