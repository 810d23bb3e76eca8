"""What the server did, kept for later: the one request log. Importing this room loads nothing heavy."""
