"""Tells how the program is, over TCP: one word, one line of JSON."""

import json
import os
import socket
import threading


def serve(port, state, end):
    """state() returns (progress, errors); end() is called before an exit."""
    listener = socket.create_server(("0.0.0.0", port))

    def answer(conn):
        with conn:
            word = conn.makefile().readline().strip()
            if word == "exit":
                end()
            progress, errors = state()
            conn.sendall((json.dumps({"progress": progress, "errors": errors}) + "\n").encode())
        if word == "exit":
            os._exit(1 if errors else 0)

    while True:
        try:
            conn, _ = listener.accept()
            threading.Thread(target=answer, args=(conn,), daemon=True).start()
        except OSError:
            pass  # a connection that was closed before it was taken
