"""A finished run as a data set of the Hugging Face hub, with images and a card. Imported by `flows.commands` alone."""
