"""Signs in to one broker as Kafka's clients do, to hear what it answers. Used by `diagnosis`.

kafka-python 3.0 often loses the answer: a broker that refuses a user closes the connection behind its words, and the
library drops what it reads together with the end.
"""

import socket
from typing import Any

from kafka.net.sasl import get_sasl_mechanism
from kafka.protocol.parser import KafkaProtocol
from kafka.protocol.sasl import SaslAuthenticateRequest, SaslHandshakeRequest

from trimtab.bus.security import Security

_VERSION = 1
_READ_BYTES = 4096


def refusal(security: Security, connection: socket.socket) -> str:
    """What the broker says to our user, a clause; empty when it lets them in. OSError when it says nothing in time."""
    talk = KafkaProtocol(client_id="trimtab")
    greeted = _ask(talk, connection, SaslHandshakeRequest(version=_VERSION, mechanism=security.mechanism))
    if greeted.error_code:
        return f"it knows {', '.join(greeted.mechanisms) or 'no mechanism'}"
    mechanism = get_sasl_mechanism(security.mechanism)(
        security_protocol=security.protocol,
        sasl_mechanism=security.mechanism,
        sasl_plain_username=security.username,
        sasl_plain_password=security.password,
    )
    while not mechanism.is_done():
        said = _ask(talk, connection, SaslAuthenticateRequest(version=_VERSION, auth_bytes=mechanism.auth_bytes()))
        if said.error_code:
            return str(said.error_message)
        try:
            mechanism.receive(said.auth_bytes)
        except ValueError as problem:
            return str(problem)
    return ""


def _ask(talk: KafkaProtocol, connection: socket.socket, request: Any) -> Any:
    talk.send_request(request)
    connection.sendall(talk.send_bytes())
    while True:
        read = connection.recv(_READ_BYTES)
        if not read:
            raise ConnectionResetError(0, "it closes the connection")
        for _, answer in talk.receive_bytes(read):
            return answer
