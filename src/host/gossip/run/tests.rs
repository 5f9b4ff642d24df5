//! What the supervisor does when chitchat ends by itself, which it is not known to do.

use super::*;
use crate::host::clock::Clock;
use crate::host::gossip::{Config, Key, Keys};

fn shared(folder: &std::path::Path) -> (Arc<Shared>, Receiver<()>) {
    let config = Config {
        node: "a".into(),
        cluster: "swarm".into(),
        listen: ([127, 0, 0, 1], 0).into(),
        advertise: ([127, 0, 0, 1], 7946).into(),
        seeds: Vec::new(),
        folder: folder.to_owned(),
        clock: Clock::new(),
    };
    let keys = Keys { seal: Key { number: 1, secret: [1; 32] }, also: None };
    let (shared, nudged, _) = Shared::new(config, keys);
    (Arc::new(shared), nudged)
}

#[test]
fn one_that_ends_is_told_and_the_next_start_is_another() {
    let folder = std::env::temp_dir().join(format!("skep-gossip-run-{}", std::process::id()));
    let (shared, nudged) = shared(&folder);
    let socket = Arc::new(Async::<UdpSocket>::bind(([127, 0, 0, 1], 0)).unwrap());
    let start = |generation| Running::start(&shared, &socket, Salt([1; 12]), generation);
    Runtime::new().block_on(async {
        let running = start(3).await.unwrap();
        running.handle.abort();
        let End::Broken(why) = running.until_it_ends(&nudged).await else { panic!() };
        assert_eq!(why, "Chitchat server panicked");

        let running = start(4).await.unwrap();
        shared.change_values(|values| {
            values.insert("k".into(), "v".into());
            Ok::<_, ()>(true)
        })
        .unwrap();
        running.set_values().await;
        let chitchat = running.handle.chitchat();
        let state = chitchat.lock().await.self_node_state().clone();
        assert_eq!(state.chitchat_id().generation_id, 4);
        assert_eq!(state.get("k"), Some("v"));
        shared.stop();
        assert!(matches!(running.until_it_ends(&nudged).await, End::Stopped));
    });
    // The loop counts each start that ends, and goes on until it is stopped.
    Runtime::new().block_on(run(Arc::clone(&shared), socket, nudged, Salt([2; 12])));
    assert_eq!(generation::next(&folder, 0), 2);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn after_a_stall_the_others_are_not_dead_at_once() {
    let (shared, _nudged) = shared(std::path::Path::new("unused"));
    let at = Time;
    shared.turn_at(at(0));
    shared.turn_at(at(1_000_000));
    assert_eq!(shared.since_stall(at(1_000_000)), None);
    shared.turn_at(at(4_000_000));
    shared.turn_at(at(4_500_000));
    assert_eq!(shared.since_stall(at(5_000_000)), Some(Span::from_secs(1)));

    let member = |node: &str, alive, generation| Member {
        node: node.into(),
        address: ([10, 0, 0, 1], 1).into(),
        alive,
        heard: None,
        values: BTreeMap::new(),
        generation,
    };
    let before = [member("a", true, 1), member("b", false, 1), member("c", true, 1)];
    let now = [member("a", false, 1), member("b", false, 1), member("c", false, 2)];
    let mut now: BTreeMap<_, _> = now.into_iter().map(|it| (it.node.clone(), it)).collect();
    hold(&mut now, &before);
    let alive: Vec<_> = now.values().filter(|member| member.alive).map(|it| &*it.node).collect();
    assert_eq!(alive, ["a"]);
}
