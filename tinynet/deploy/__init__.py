"""A trained model leaves Python: the model as a flat list of plain operations, and what is made of it."""
