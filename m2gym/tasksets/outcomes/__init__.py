"""What tests do in a box.

`measure` runs them in fresh boxes, with and without the fix, several times, and asks the verifier;
`screen` asks one warm pytest about many changed versions. Sent to a box as text and never imported:
`collect` (every test's outcome), `screen_server` (the warm pytest), `explain_failure` and
`explain_names` (what a failing test saw).
"""
