"""Models behind one session: chat formats, the recorder, scripted and replayed models."""
