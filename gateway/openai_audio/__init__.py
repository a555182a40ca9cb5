"""OpenAI-compatible speech, transcription and models over HTTP. `app.py` builds it."""
