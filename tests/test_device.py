import gc
from weakref import ref

from cdl_d2.device import device_of, network_on
from tests.conftest import loud_network

NAME = "tiny-bmshj2018-hyperprior"


def test_a_network_stays_where_it_is_and_has_one_copy_on_another_device():
    network = loud_network(NAME)
    assert network_on(network, "cpu") is network
    elsewhere = network_on(network, "meta")
    assert network_on(network, "meta") is elsewhere
    assert device_of(elsewhere).type == "meta" and device_of(network).type == "cpu"
    assert network_on(elsewhere, "cpu") is network


def test_an_unreferenced_copy_is_deleted():
    network = loud_network(NAME)
    copy = ref(network_on(network, "meta"))
    gc.collect()
    assert copy() is None


def test_a_copy_that_its_owner_moved_is_replaced():
    network = loud_network(NAME)
    moved = network_on(network, "meta").to_empty(device="cpu")
    replacement = network_on(network, "meta")
    assert replacement is not moved and device_of(replacement).type == "meta"
