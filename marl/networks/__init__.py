"""Parts of networks: torsos and heads, distributions over actions, encodings of actions, running normalisation."""
