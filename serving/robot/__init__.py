"""A websocket server of actions that speaks openpi's protocol, and a page that shows what it does.

wire.py: arrays as msgpack. fields.py: what a client sends -> `Observation`. worker.py: one thread runs the policy for
all clients. server.py: connections. live.py, page.html: what a browser shows. __main__.py: the command.
"""
