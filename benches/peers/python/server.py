"""python server.py echo|broadcast PORT: socketify, which is uWebSockets with its handlers in Python.

One call into Python for each message, none for a delivery: publishing is uWebSockets' own. No compression.
"""

import sys

from socketify import App, CompressOptions, OpCode

mode, port = sys.argv[1], int(sys.argv[2])


def on_open(ws):
    if mode == "broadcast":
        ws.subscribe("room")


def on_message(ws, message, opcode):
    if mode == "echo":
        ws.send(message, opcode)
    else:
        # The server's publish, not the socket's: that one leaves out the sender.
        app.publish("room", message, opcode)


app = App()
app.ws(
    "/*",
    {
        "compression": CompressOptions.DISABLED,
        "max_payload_length": 1024 * 1024,
        "max_backpressure": 0,
        "idle_timeout": 0,
        "open": on_open,
        "message": on_message,
    },
)
app.listen(port, lambda config: print(f"listening on 127.0.0.1:{config.port}", flush=True))
app.run()
