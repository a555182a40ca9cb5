"""TLS of what Parley serves and of what it calls. Certificates may be replaced while it runs: files are looked at
whenever a handshake or a new connection needs them, so nothing has to be told and no open call notices."""
