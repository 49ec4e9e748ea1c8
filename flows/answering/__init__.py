"""Arms that other people's programs ask: found by name, answered on loaded models. Imports `flows.plan` and below."""
