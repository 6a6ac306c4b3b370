"""How the embedded model is made: corpus, training, checks. Not part of the installed package."""
