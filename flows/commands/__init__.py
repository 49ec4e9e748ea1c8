"""The commands of `cmrm`, a file each; `flows.cli` imports the one that is given and no other."""
