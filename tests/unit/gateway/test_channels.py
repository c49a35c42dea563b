"""Connections of the gateway: one per place, and another one for whoever comes to the same address."""

import grpc

import trimtab_client
from trimtab.gateway import channels

SLOT = "dns:///trimtab-policy-main-a.models.svc:50051"


async def test_another_policy_at_the_same_address_is_asked_over_another_connection() -> None:
    opened = channels.Channels(trimtab_client.connect, grace_s=0.1)
    first = opened.to(SLOT, "first")
    assert opened.to(SLOT, "first") is first
    opened.keep(frozenset({(SLOT, "second")}))
    second = opened.to(SLOT, "second")
    assert second is not first
    await opened.close()
    assert first.get_state() is second.get_state() is grpc.ChannelConnectivity.SHUTDOWN
