"""The commands of `cmrm`, a file each; `flows.cli` imports the given one only."""
