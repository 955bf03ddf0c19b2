"""Generate and train in one process, with torch and transformers only.

``hooked`` (a model with our attention) · ``engine`` (generation) · ``trainer`` (learning).
"""
