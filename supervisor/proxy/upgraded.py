"""A client's connection once it is a websocket: uvicorn's protocol, with one hole closed."""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

ENDED_ABNORMALLY = 1006


class Upgraded(WebSocketsSansIOProtocol):
    """What comes before the websocket is accepted, or after it was refused, and is no frame ends the connection.

    uvicorn 0.54 asserts that a close frame was sent; then there is none, and the loop would log a traceback.
    """

    def handle_parser_exception(self) -> None:
        if self.conn.close_sent is not None:
            super().handle_parser_exception()
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": ENDED_ABNORMALLY, "reason": ""})
        self.close_sent = True
        self.transport.close()
