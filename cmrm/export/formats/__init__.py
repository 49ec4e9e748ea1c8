"""The formats of exports, one file each. Imports the files of `cmrm.export` beside it."""
