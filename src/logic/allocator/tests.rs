//! Addresses and published ports, case by case and at random.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::{
    AddressError, DYNAMIC_PORTS, INGRESS, Picker, PortError, addresses, network_for, ports, vips,
};
use crate::base::id::{NetworkId, ServiceId, TaskId};
use crate::logic::fixture;
use crate::logic::store::Store;
use crate::model::entry::{Change, Entry};
use crate::model::network::{GWBRIDGE, Network};
use crate::model::object::{Object, ObjectId};
use crate::model::service::{
    EndpointMode, NetworkAttachment, Port, Protocol, PublishMode, Service, ServiceSpec,
};

fn write(store: &mut Store, change: Change) {
    let request = crate::logic::store::OWN_REQUEST;
    let (time, preconditions) = (crate::base::time::Wall(1), Vec::new());
    let entry = Entry { request, time, preconditions, changes: vec![change] };
    store.apply(store.index() + 1, &entry);
}

/// Gives a new task the next address; its last byte.
fn lease(store: &mut Store, network: &Network, id: u128) -> Option<u8> {
    let address = Picker::default().pick(store, network)?;
    let mut task = fixture::task(id, 1);
    task.addresses.push(address);
    write(store, Change::Put(Object::Task(Box::new(task))));
    Some(address.address.octets()[3])
}

fn release(store: &mut Store, id: u128) {
    write(store, Change::Remove(ObjectId::Task(TaskId::new(id))));
}

#[test]
fn the_lowest_free_address_is_leased_until_none_is_left() {
    // .0 is the network's, .1 the gateway's, .7 the broadcast address.
    let network = fixture::network(1, INGRESS, 29);
    let mut store = fixture::store(vec![Object::Network(Box::new(network.clone()))]);
    let all: Vec<_> = (1..=6).map(|id| lease(&mut store, &network, id)).collect();
    assert_eq!(all, [Some(2), Some(3), Some(4), Some(5), Some(6), None]);
    release(&mut store, 4);
    release(&mut store, 2);
    assert_eq!(lease(&mut store, &network, 7), Some(3), "the lowest that was given back");
    assert_eq!(lease(&mut store, &network, 8), Some(5));
    assert_eq!(lease(&mut store, &network, 9), None);
}

#[test]
fn a_batch_leases_nothing_twice_and_nothing_that_is_taken() {
    let network = fixture::network(1, INGRESS, 29);
    let other = fixture::network(2, GWBRIDGE, 29);
    let mut store = fixture::store(Vec::new());
    assert_eq!(lease(&mut store, &network, 1), Some(2));
    let mut picker = Picker::default();
    let mut pick =
        |network: &Network| picker.pick(&store, network).map(|lease| lease.address.octets()[3]);
    assert_eq!(pick(&network), Some(3));
    assert_eq!(pick(&other), Some(2), "each network has addresses of its own");
    assert_eq!(pick(&network), Some(4));
    assert_eq!([pick(&network), pick(&network), pick(&network)], [Some(5), Some(6), None]);
}

#[test]
fn a_network_without_room_for_a_task_gives_nothing() {
    for prefix in [30, 31, 32] {
        let network = fixture::network(1, INGRESS, prefix);
        let picked = Picker::default().pick(&Store::default(), &network);
        assert_eq!(picked.map(|lease| lease.address.octets()[3]), (prefix == 30).then_some(2));
    }
}

#[test]
fn a_task_is_on_the_network_that_its_ports_want() {
    let object = |id, name| Object::Network(Box::new(fixture::network(id, name, 24)));
    let both = fixture::store(vec![object(1, INGRESS), object(2, GWBRIDGE)]);
    let other = fixture::store(vec![object(3, "other")]);
    let ingress = [fixture::port(80, PublishMode::Ingress)];
    let host = [fixture::port(80, PublishMode::Host)];
    for (store, ports, name) in [
        (&both, &ingress[..], Some(INGRESS)),
        (&both, &host[..], Some(GWBRIDGE)),
        (&both, &[][..], Some(GWBRIDGE)),
        (&other, &ingress[..], Some("other")),
        (&Store::default(), &ingress[..], None),
    ] {
        assert_eq!(network_for(store, ports).map(|it| it.name.as_str()), name);
    }
}

#[test]
fn a_task_has_an_address_on_each_of_its_networks() {
    let object = |id, name| Object::Network(Box::new(fixture::network(id, name, 29)));
    let store = fixture::store(vec![object(1, INGRESS), object(2, GWBRIDGE), object(3, "a")]);
    let attach = |id| NetworkAttachment { network: NetworkId::new(id), aliases: Vec::new() };
    let mut picker = Picker::default();
    let mut give = |ports: Vec<Port>, networks: &[u128]| {
        let mut task = fixture::task(1, 1);
        task.ports = ports;
        task.spec.networks = networks.iter().copied().map(attach).collect();
        addresses(&store, &mut picker, &mut task)?;
        let shown = task.addresses.iter().map(|it| (it.network.0.0, it.address.octets()[3]));
        let shown: Vec<(u128, u8)> = shown.collect();
        addresses(&store, &mut picker, &mut task)?;
        let again = task.addresses.iter().map(|it| (it.network.0.0, it.address.octets()[3]));
        assert_eq!(again.collect::<Vec<_>>(), shown, "what it has stays");
        Ok::<_, AddressError>(shown)
    };
    assert_eq!(give(vec![], &[]), Ok(vec![(2, 2)]));
    assert_eq!(give(vec![ingress(80, 80)], &[3]), Ok(vec![(1, 2), (3, 2)]));
    assert_eq!(give(vec![], &[3, 3, 2]), Ok(vec![(2, 3), (3, 3)]), "one on each");
    let missing = AddressError::NoNetwork(NetworkId::new(9));
    assert_eq!(give(vec![], &[9]), Err(missing));
    assert_eq!(give(vec![], &[]), Ok(vec![(2, 4)]), "all of them or none");
}

#[test]
fn a_service_has_a_virtual_address_on_each_network_unless_it_wants_none() {
    let object = |id, name| Object::Network(Box::new(fixture::network(id, name, 29)));
    let store = fixture::store(vec![object(1, INGRESS), object(3, "a"), object(4, "b")]);
    let attach = |id| NetworkAttachment { network: NetworkId::new(id), aliases: Vec::new() };
    let mut service = fixture::service(1, "web");
    service.ports = vec![ingress(80, 80)];
    let mut picker = Picker::default();
    let mut lease = |networks: &[u128], mode| {
        service.spec.task.networks = networks.iter().copied().map(attach).collect();
        service.spec.endpoint.mode = mode;
        service.vips = vips(&store, &mut picker, &service)?;
        let shown = service.vips.iter().map(|it| (it.network.0.0, it.address.octets()[3]));
        Ok::<Vec<_>, AddressError>(shown.collect())
    };
    use EndpointMode::{Dnsrr, Vip};
    assert_eq!(lease(&[], Vip), Ok(vec![]), "published ports need none");
    assert_eq!(lease(&[3], Vip), Ok(vec![(3, 2)]));
    assert_eq!(lease(&[4, 3], Vip), Ok(vec![(4, 2), (3, 2)]), "what it has stays");
    assert_eq!(lease(&[4], Vip), Ok(vec![(4, 2)]));
    assert_eq!(lease(&[3, 4], Dnsrr), Ok(vec![]));
}

/// One port: number (0: any), target, mode.
fn port(published: u16, target: u16, mode: PublishMode) -> Port {
    Port { target, ..fixture::port(published, mode) }
}

fn ingress(published: u16, target: u16) -> Port {
    port(published, target, PublishMode::Ingress)
}

fn wanting(ports: &[Port]) -> ServiceSpec {
    let mut spec = fixture::spec("new", "image", 1);
    spec.endpoint.ports = ports.to_vec();
    spec
}

fn holding(id: u128, ports: Vec<Port>) -> Service {
    Service { ports, ..fixture::service(id, &format!("s{id}")) }
}

fn store(services: Vec<Service>) -> Store {
    let object = |service| Object::Service(Box::new(service));
    fixture::store(services.into_iter().map(object).collect())
}

fn leased(store: &Store, wanted: &[Port], old: &[Port]) -> Result<Vec<u16>, PortError> {
    let ports = ports(store, &wanting(wanted), ServiceId::new(9), old)?;
    assert_eq!(ports.len(), wanted.len());
    Ok(ports.iter().map(|port| port.published).collect())
}

#[test]
fn a_port_is_refused_when_either_service_publishes_it_on_every_node() {
    use PublishMode::{Host, Ingress};
    let text = |kind: &str| {
        Some(format!(
            "port '80' is already in use by service 's1' ({}) as {kind}",
            ServiceId::new(1)
        ))
    };
    let (on_all, on_host) = (text("an ingress port"), text("a host-published port"));
    for (held, asked, published, protocol, error) in [
        (Ingress, Ingress, 80, Protocol::Tcp, &on_all),
        (Ingress, Host, 80, Protocol::Tcp, &on_all),
        (Host, Ingress, 80, Protocol::Tcp, &on_host),
        // Two of these are the scheduler's business.
        (Host, Host, 80, Protocol::Tcp, &None),
        (Ingress, Ingress, 80, Protocol::Udp, &None),
        (Ingress, Ingress, 81, Protocol::Tcp, &None),
    ] {
        let store = store(vec![holding(1, vec![port(80, 80, held)])]);
        let wanted = Port { protocol, ..port(published, 80, asked) };
        let result = leased(&store, &[wanted], &[]);
        assert_eq!(result.err().map(|error| error.to_string()), *error, "{held:?} {asked:?}");
    }
}

#[test]
fn a_service_keeps_its_own_ports() {
    let store = store(vec![holding(9, vec![ingress(80, 80), ingress(30_000, 81)])]);
    assert_eq!(leased(&store, &[ingress(80, 80)], &[]), Ok(vec![80]), "its own are no conflict");
    assert_eq!(leased(&store, &[port(80, 80, PublishMode::Host)], &[]), Ok(vec![80]));
}

#[test]
fn a_port_left_open_gets_the_lowest_number_that_nobody_holds() {
    let host = port(30_002, 80, PublishMode::Host);
    let udp = Port { protocol: Protocol::Udp, ..ingress(30_003, 80) };
    let store = store(vec![holding(1, vec![ingress(30_000, 80), host, udp])]);
    let wanted = [ingress(0, 80), ingress(30_001, 81), ingress(0, 82), ingress(0, 80)];
    assert_eq!(leased(&store, &wanted, &[]), Ok(vec![30_003, 30_001, 30_004, 30_005]));
    let open_on_host = [port(0, 80, PublishMode::Host)];
    assert_eq!(leased(&store, &open_on_host, &[]), Ok(vec![0]), "the node picks that one");
}

#[test]
fn an_update_keeps_the_numbers_that_were_picked() {
    let empty = store(Vec::new());
    let old = [ingress(30_005, 80), ingress(30_007, 80), ingress(30_009, 443)];
    for (wanted, kept) in [
        (vec![ingress(0, 80), ingress(0, 80), ingress(0, 443)], vec![30_005, 30_007, 30_009]),
        (vec![ingress(0, 443), ingress(0, 80)], vec![30_009, 30_005]),
        (vec![ingress(0, 81), ingress(0, 443)], vec![30_000, 30_009]),
        // Another protocol is another port; what was no number of the range is not kept.
        (vec![Port { protocol: Protocol::Udp, ..ingress(0, 80) }], vec![30_000]),
        (vec![ingress(30_005, 81), ingress(0, 80)], vec![30_005, 30_007]),
    ] {
        assert_eq!(leased(&empty, &wanted, &old), Ok(kept), "{wanted:?}");
    }
    assert_eq!(leased(&empty, &[ingress(0, 80)], &[ingress(8_080, 80)]), Ok(vec![30_000]));
    // A new port does not take the number of one that stays.
    let wanted = [ingress(0, 81), ingress(0, 80)];
    assert_eq!(leased(&empty, &wanted, &[ingress(30_000, 80)]), Ok(vec![30_001, 30_000]));
}

#[test]
fn when_all_numbers_are_taken_it_says_so() {
    let all = || DYNAMIC_PORTS.map(|number| ingress(number, 80));
    let full = store(vec![holding(1, all().collect())]);
    let error = leased(&full, &[ingress(0, 80)], &[]).unwrap_err();
    let text = "no port is free between 30000 and 32767; publish a port by its number";
    assert_eq!(error.to_string(), text);
    let udp = Port { protocol: Protocol::Udp, ..ingress(0, 80) };
    assert_eq!(leased(&full, &[udp], &[]), Ok(vec![30_000]));
    assert_eq!(leased(&full, &[ingress(80, 80)], &[]), Ok(vec![80]));
    let but_one = all().filter(|port| port.published != 31_234).collect();
    let but_one = store(vec![holding(1, but_one)]);
    assert_eq!(leased(&but_one, &[ingress(0, 80)], &[]), Ok(vec![31_234]));
}

fn wanted_port() -> impl Strategy<Value = Port> {
    let published = prop_oneof![2 => Just(0u16), 1 => 30_000..30_004u16, 1 => 80..82u16];
    let udp = any::<bool>();
    let host = proptest::bool::weighted(0.3);
    (published, 1..4u16, udp, host).prop_map(|(published, target, udp, host)| {
        let mode = if host { PublishMode::Host } else { PublishMode::Ingress };
        let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        Port { protocol, ..port(published, target, mode) }
    })
}

proptest! {
    #[test]
    fn no_two_services_share_a_port_and_the_same_spec_gets_the_same_ports(
        asked in proptest::collection::vec(
            (1..6u128, proptest::collection::vec(wanted_port(), 0..4)),
            0..12,
        )
    ) {
        let mut store = Store::default();
        for (id, wanted) in asked {
            let id = ServiceId::new(id);
            let spec = wanting(&wanted);
            let Ok(spec) = spec.validate().map(|spec| spec.into_spec()) else { continue };
            let old = store.service(id).map(|it| it.ports.clone()).unwrap_or_default();
            let Ok(got) = ports(&store, &spec, id, &old) else { continue };
            let mut service = holding(id.0.0, got.clone());
            service.spec.endpoint = spec.endpoint.clone();
            write(&mut store, Change::Put(Object::Service(Box::new(service))));
            prop_assert_eq!(ports(&store, &spec, id, &got), Ok(got.clone()));
            for (port, wanted) in got.iter().zip(&spec.endpoint.ports) {
                let same = Port { published: wanted.published, ..port.clone() } == *wanted;
                prop_assert!(same && (wanted.published == 0 || wanted == port));
                let open = wanted.published == 0 && wanted.mode == PublishMode::Host;
                prop_assert_eq!(open, port.published == 0);
            }
            let all = || store.services().flat_map(|it| it.ports.iter().map(|port| (it.id, port)));
            let on_all = all().filter(|(_, port)| port.mode == PublishMode::Ingress);
            let mut seen = BTreeSet::new();
            for (id, port) in on_all {
                let key = (port.published, port.protocol);
                prop_assert!(seen.insert(key), "{:?} twice", key);
                let host = |(other, it): (ServiceId, &Port)| {
                    other != id && (it.published, it.protocol) == key
                };
                prop_assert!(!all().any(host), "{:?} is another's, too", key);
            }
        }
    }

    #[test]
    fn an_address_has_one_holder_and_is_the_lowest_free_one(
        steps in proptest::collection::vec((any::<bool>(), 1..12u128), 0..60)
    ) {
        let network = fixture::network(1, INGRESS, 28);
        let mut store = Store::default();
        for (new, id) in steps {
            if !new {
                release(&mut store, id);
                continue;
            }
            if store.task(TaskId::new(id)).is_some() {
                continue;
            }
            let held = |store: &Store| -> BTreeSet<u8> {
                let leases = store.tasks().flat_map(|task| &task.addresses);
                leases.map(|lease| lease.address.octets()[3]).collect()
            };
            let before = held(&store);
            let lowest = (2..15).find(|n| !before.contains(n));
            prop_assert_eq!(lease(&mut store, &network, id), lowest);
            prop_assert_eq!(held(&store).len(), before.len() + usize::from(lowest.is_some()));
        }
    }
}
