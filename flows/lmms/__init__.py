"""cmrm in lmms-eval: a chat model that answers its tasks under an intervention. Imports `flows.answering` and below."""
