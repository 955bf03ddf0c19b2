"""Pre-training of m2-nano: generated transcripts, M2's layers made fast, balance by the bias.

``corpus`` (worlds → token rows) · ``network`` (the model, compiled whole) · ``balance`` (experts'
use) · ``run`` (the loop) · ``measure`` (what a row of transcripts says of learning in context).
"""
