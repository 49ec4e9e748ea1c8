"""The export of a steered model: from a run or a file of Δ to a proved folder with its card. Imports `flows.run`."""
