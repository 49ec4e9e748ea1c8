"""The functions that `import cmrm` gives, thin over the folders below. Imports all of cmrm; nothing imports it."""
